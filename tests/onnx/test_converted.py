"""What converted networks of people's own showed: shapes of graph that the exporter or ONNX Runtime trips over."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap


class Repeated(nn.Module):
    """One block that runs three times, as ALBERT's layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(self.block(x)))


class PaddedPool(nn.Module):
    """Zeros around values below zero are the largest there: the pad must not become the pooling's own."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.pool, self.act = nn.Conv2d(3, 4, 1), pool, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        below = self.conv(x).square().neg() - 1
        return self.act(self.pool(F.pad(below, (1, 1, 1, 1)))) + self.pool(F.pad(below, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    "model",
    [Repeated(), PaddedPool(nn.MaxPool2d(3, 2)), PaddedPool(nn.AvgPool2d(3, 2))],
    ids=["repeated", "max_pool", "avg_pool"],
)
def test_a_converted_network_agrees_with_onnx_runtime(model: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(2, model.conv.in_channels if isinstance(model, PaddedPool) else 4, 8, 8)
    converted = actswap.convert(model, "dy_relu_b", x).model
    report = actswap.export_onnx(converted, x, tmp_path / "m.onnx")  # the export itself compares, to 1e-4
    assert max(p.relative for p in report.parity) <= 1e-4
    names = [n.name for n in onnx.load(tmp_path / "m.onnx").graph.node if n.name]
    assert len(set(names)) == len(names)
