"""Set up what every test needs: torchvision beside a CPU torch, one thread, small models."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from torch import nn

from actswap.vetting import import_library

torch.set_num_threads(1)
import_library("torchvision")  # declares its operators where its compiled part does not fit; timm needs it


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


@pytest.fixture
def small() -> nn.Module:
    """A SmallNet with fixed random weights, in eval mode."""
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture
def image() -> torch.Tensor:
    """Two small images."""
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def library_model() -> nn.Module:
    """A small model whose classes are all torch's own: its pickle needs no permission."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
