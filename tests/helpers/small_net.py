"""A small network of a class that belongs to no library."""

from __future__ import annotations

import torch
from torch import nn


class SmallNet(nn.Module):
    """A convolutional classifier with a module, a shared module and a functional call: four ReLU calls."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(8, 16, 3, padding=1)
        self.shared = nn.ReLU()
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.act(self.stem(x)))
        x = self.shared(self.body(x))
        return self.head(torch.relu(x.mean((2, 3))))
