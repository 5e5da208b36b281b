"""Small models made from a forward, and the check that every test of this folder ends with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import actswap
import actswap.errors
from actswap.sites import Site

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
EXACT = 1e-5  # SiLU to ACON-C is exact to rounding


def module_of(forward: Callable[..., Any], **children: nn.Module) -> nn.Module:
    """A module with these children and this forward; `a` and `b` are linear layers of width 6 unless given."""
    torch.manual_seed(0)
    module = type("Made", (nn.Module,), {"forward": forward})()
    for name, child in {"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), **children}.items():
        module.add_module(name, child)
    return module.eval()


def scan(model: nn.Module, x: Any) -> list[Site]:
    return actswap.scan(model, x)


def names(model: nn.Module, x: Any) -> list[str]:
    return [s.name for s in scan(model, x)]


def check(model: nn.Module, x: Any, **options: Any) -> nn.Module:
    """Convert every site, whatever its role, and compare; sites of SiLU begin exactly, others as they can."""
    result = actswap.convert(model, "acon_c", x, **options)
    report = result.report
    assert report.census is not None and report.census.complete
    # The tolerance that was asked for; or, if the outputs hardly vary, a few roundings of them: `Parity.rounding`.
    assert actswap.verify(model, result.model, x).within(report.tolerance)
    return result.model
