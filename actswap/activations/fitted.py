"""Starts by fit: the numerics of `actswap.fit` on the histogram of a site."""

from __future__ import annotations

from actswap.activations.base import StartContext
from actswap.errors import StartError
from actswap.sites import Number, Source, Start


def fit_acon(source: Source, context: StartContext, slopes: str) -> tuple[Number, Number, Number, Start]:
    """Fit (p1, p2, beta) of ACON-C to a source."""
    raise StartError(f"no fit for {source}", why="fits are not there yet")


def fit_lines(source: Source, context: StartContext, count: int) -> Start:
    """Fit the maximum of `count` lines to a source."""
    raise StartError(f"no fit for {source}", why="fits are not there yet")
