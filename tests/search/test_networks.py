"""The networks from scratch: their published sizes, and where the function stands."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from actswap.search.networks import NETWORKS


@pytest.mark.parametrize(
    ("name", "channels", "parameters", "sites", "shape"),
    [
        # convolutions 72 + 1,152 + 4,608, BatchNorm 112, head 330
        ("proxy", 1, 72 + 1_152 + 4_608 + 112 + 330, 3, (2, 1, 28, 28)),
        # He et al. 2016, table 6: 0.27 million parameters; convolutions 267,696, BatchNorm 1,376, head 650
        ("resnet20", 3, 267_696 + 1_376 + 650, 19, (2, 3, 32, 32)),
    ],
)
def test_size_and_sites(name: str, channels: int, parameters: int, sites: int, shape: tuple[int, ...]) -> None:
    asked: list[int] = []

    def activate(width: int) -> nn.Module:
        asked.append(width)
        return nn.ReLU()

    net = NETWORKS[name](activate, channels, 10)
    assert sum(p.numel() for p in net.parameters()) == parameters and len(asked) == sites
    widths: list[int] = []
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda m, args, y: widths.append(y.shape[1]))
    assert net(torch.randn(shape)).shape == (2, 10) and widths == asked
