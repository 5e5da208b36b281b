"""Data and a search file whose children train in a fraction of a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

SPACE = """
schema = 1
[space]
unary = ["x", "sigmoid(x)", "max(x,0)", "exp(x)"]
binary = ["a*b", "max(a,b)"]
[search]
sampler = "exhaustive"
trials = 1000
halving = 2
[child]
rungs = 2
[tune]
epochs = 2
batch = 24
lr = 0.1
accelerator = "cpu"
"""


def made(count: int = 96, size: int = 8) -> tuple[TensorDataset, TensorDataset]:
    """Two classes, told apart by which half of the rows is bright."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(count, 1, size, size, generator=generator), torch.arange(count) % 2
    for row, label in enumerate(y.tolist()):
        x[row, :, size // 2 * label : size // 2 * (label + 1)] += 0.7
    return TensorDataset(x[: count // 2], y[: count // 2]), TensorDataset(x[count // 2 :], y[count // 2 :])


def without_valid() -> TensorDataset:
    return made()[0]


class Small(nn.Module):
    """A network with two sites, pretrained in name only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 4, 3, 2), nn.ReLU()
        self.deep, self.last = nn.Conv2d(4, 4, 3), nn.SiLU()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.deep(self.act(self.conv(x)))).mean((2, 3)))


def small() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Small()
