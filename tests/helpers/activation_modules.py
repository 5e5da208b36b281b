"""Modules and inputs of the tests beside it."""

from __future__ import annotations

import torch
from torch import nn

from actswap import activations
from actswap.activations.base import StartContext
from actswap.activations.plain import evaluate
from actswap.sites import Source, Start

C = 6
# The families, by what a start can vary.
ACONS = ["swish", "acon_a", "acon_b", "acon_c", "acon_frelu", "meta_acon"]
TWO_LINES = ["acon_b", "acon_c", "acon_frelu", "meta_acon"]
DYNAMIC = ["dy_relu_a", "dy_relu_b", "dy_relu_c"]
PADE = ["pau", "opau", "hp1", "hp2"]
# PReLU slopes of every kind, one for each of four channels.
SLOPES = (0.2, 1.0, 1.5, -0.3)


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


def begun(name: str, source: Source, beta: float = 100.0, **options: object) -> tuple[torch.nn.Module, Start]:
    spec = activations.get(name)
    start = spec.start(source, StartContext(beta, None, options))
    module = spec.build(4, 1, **options).double()
    module.load_start(start.params)
    return module, start


def grid(width: float = 4.0) -> torch.Tensor:
    """(2, 4, 1, n) inputs that hold 0 and, for every beta here, the places of the largest error."""
    line = torch.linspace(-width, width, 8001, dtype=torch.float64)
    return line.reshape(1, 1, 1, -1).expand(2, 4, 1, -1).contiguous()


def error(module: torch.nn.Module, source: Source, x: torch.Tensor) -> torch.Tensor:
    return (module(x) - evaluate(source, x)).detach().abs()


def line(n: int = 4001, width: float = 6.0) -> torch.Tensor:
    return torch.linspace(-width, width, n, dtype=torch.float64).reshape(1, 1, -1)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)
