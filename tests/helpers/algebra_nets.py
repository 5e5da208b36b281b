"""Small networks for the inference-time algebra, and how a simplified file is compared with the plain one.

Folding moves a constant of a channel from one factor of every product to another: three roundings of 2^-24 more per
layer, so two layers and an activation stay within 1e-6 of the largest output (ROUNDING).
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from actswap.activations import get
from actswap.onnx.export import export_onnx

C = 8


ROUNDING = 1e-6


def acon(name: str = "acon_c", seed: int = 1, **values: float) -> nn.Module:
    """An ACON whose parameters differ by channel, but for those given."""
    generator = torch.Generator().manual_seed(seed)
    module = get(name).build(C, 1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        for key, value in values.items():
            getattr(module, key).fill_(value)
    return module


class Pair(nn.Module):
    """A layer, an activation, and what reads it."""

    def __init__(self, before: nn.Module, activation: nn.Module, after: nn.Module, also: bool = False) -> None:
        super().__init__()
        self.before, self.activation, self.after, self.also = before, activation, after, also

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.before(x))
        return self.after(y).mean() + y if self.also else self.after(y)


def convs(**options: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 2 * C, 3, padding=1, **options)


X = torch.randn(2, 3, 9, 6, generator=torch.Generator().manual_seed(3))


V = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))


def run(path: Path, x: Tensor) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def both(model: nn.Module, x: Tensor, folder: Path) -> tuple[object, float]:
    """The report of the simplified file, and its largest error relative to the file as it is."""
    model.eval()
    report = export_onnx(model, x, folder / "simple.onnx", dynamic_size=False)
    plain = export_onnx(model, x, folder / "plain.onnx", dynamic_size=False, simplify=False)
    assert plain.simplified == {}
    got, want = run(folder / "simple.onnx", x), run(folder / "plain.onnx", x)
    return report, float(np.abs(got - want).max() / np.abs(want).max())
