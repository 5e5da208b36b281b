"""A network with sites of each form, its data, and a recipe that names both: for tests and benchmarks, in a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self, side: int = 12) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
        )
        self.conv2, self.bn2, self.silu = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU()
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(self.silu(x).mean((2, 3)))


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net()


def data() -> tuple[TensorDataset, TensorDataset]:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(48) % 2
    x = torch.randn(48, 3, 12, 12, generator=generator) + target[:, None, None, None]
    return TensorDataset(x, target), TensorDataset(x[:20], target[:20])


RECIPE = """
schema = 1
title = "Toy"
[model]
source = "recipe_toy:net"
input = [4, 3, 12, 12]
[data]
source = "recipe_toy:data"
[convert]
target = "acon_c"
only = ["relu*"]
[tune]
epochs = 2
batch = 16
lr = 0.05
distill = 0.5
accelerator = "cpu"
log_every = 2
schedules.beta = {start = 200.0, end = 50.0, until = 0.5}
[export]
onnx = false
[[measured]]
date = "2026-11-22"
what = "a test"
"""
