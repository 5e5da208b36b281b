"""Modules and inputs of the tests beside it."""

from __future__ import annotations

import torch
from torch import nn

from actswap import activations

C = 6


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The same module with every parameter moved a little."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return module


def built(name: str, **options: object) -> nn.Module:
    return randomised(activations.get(name).build(C, 1, **options))


def sample(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*(shape or (2, C, 4, 5)), generator=torch.Generator().manual_seed(seed))
