"""Set up what every test needs: torchvision beside a CPU torch, small models."""

from __future__ import annotations

import pytest
import torch
from small_net import SmallNet
from torch import nn

from actswap.io.torchvision_import import import_library

import_library("torchvision")  # declares its operators where its compiled part does not fit; timm needs it


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
