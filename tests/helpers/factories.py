"""Factories that tests name on the command line: `--model factories:plain`."""

from __future__ import annotations

import torch
from torch import nn


def plain() -> nn.Module:
    """Return two convolutions with a ReLU between them."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


def tied() -> nn.Module:
    """Return a network whose last layer is tied to its first."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[2].weight = net[0].weight
    return net
