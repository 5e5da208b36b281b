"""Modules whose forward becomes an island, and their conversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap

ROUNDING = 1e-5


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def again(self, x: Tensor) -> Tensor:
        """Runs several times in one forward, so that only a trace tells its calls apart."""
        return F.silu(x)


class Sizes(nn.Module):
    """Tokens with their grid, as in segformer: numbers that change with the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.conv, self.b = nn.Linear(6, 6), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Linear(6, 6)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        n, _, channels = x.shape
        y = self.a(x).transpose(1, 2).reshape(n, channels, height, width)
        y = F.silu(self.conv(y)).flatten(2).transpose(1, 2)
        return self.b(F.silu(y))


class Patches(nn.Module):
    """Calls Sizes with the size of its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 6, 2, 2), Sizes()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if y.shape[-1] > 1000:
            raise ValueError("too large")
        return self.block(y.flatten(2).transpose(1, 2), y.shape[2], y.shape[3])


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def build(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def converted(model: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> nn.Module:
    return actswap.convert(model, "acon_c", args, kwargs, tolerance=ROUNDING).model
