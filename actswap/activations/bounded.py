"""Capped activations keep their cap: relu6 and hardtanh are a ReLU, shifted, under a constant ceiling.

`split` takes a source apart into the core that a target replaces, the shift of its knee and the cap;
`Bounded` puts a target back into that place. A source without a cap is its own core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from actswap.activations.base import Activation
from actswap.activations.plain import PLAIN
from actswap.errors import StartError
from actswap.sites import Number, Source


class Split(NamedTuple):
    """source(x) = min(core(x - shift) + shift, cap)."""

    core: Source
    shift: float
    cap: float


def split(source: Source) -> Split:
    """Take a source apart into core, shift and cap; without a cap, shift is 0 and cap is inf."""
    if source.kind == "relu6":
        return Split(Source("relu"), 0.0, 6.0)
    if source.kind == "hardtanh":
        low, high = (source.get(name, PLAIN["hardtanh"].constants[name]) for name in ("low", "high"))
        if isinstance(low, float | int) and isinstance(high, float | int):
            return Split(Source("relu"), float(low), float(high))
    return Split(source, 0.0, math.inf)


def refuse_capped(source: Source, target: str) -> None:
    """Raise StartError for a source that has a cap: only its core can be started from."""
    core, shift, cap = split(source)
    if core != source:
        raise StartError(
            f"{target} has no start for {source}",
            why=f"the source has a ceiling at {cap:g}",
            fix=f"start from the core, {core}, inside Bounded(target, shift={shift:g}, cap={cap:g})",
        )


class Bounded(nn.Module):
    """A target with the ceiling of its source: min(inner(x - shift) + shift, cap).

    Args:
        inner: the activation that stands in for the core, trained or plain.
        shift: where the knee of the source lies.
        cap: the ceiling.

    >>> Bounded(nn.ReLU(), shift=0.0, cap=6.0)(torch.tensor([-1.0, 2.0, 9.0]))  # ReLU6
    tensor([0., 2., 6.])
    """

    def __init__(self, inner: nn.Module, shift: float, cap: float) -> None:
        super().__init__()
        self.inner, self.shift, self.cap = inner, shift, cap

    def forward(self, x: Tensor) -> Tensor:
        """Compute the capped activation."""
        y = self.inner(x - self.shift) + self.shift if self.shift else self.inner(x)
        return torch.clamp(y, max=self.cap)

    def load_start(self, params: Mapping[str, Number]) -> None:
        """Write start values, named as in the inner activation."""
        if isinstance(self.inner, Activation):
            self.inner.load_start(params)

    def extra_repr(self) -> str:
        """Show the shift and the cap."""
        return f"shift={self.shift:g}, cap={self.cap:g}"
