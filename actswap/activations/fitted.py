"""Starts by fit: the numerics of `actswap.fit` on the histogram of a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actswap.activations.base import StartContext
from actswap.activations.plain import evaluate
from actswap.errors import StartError
from actswap.fit.histogram import Histogram
from actswap.fit.orthogonal import fit_orthogonal
from actswap.fit.rational import PadeFit, fit_pade
from actswap.sites import Number, Source, Start

Array = NDArray[np.float64]

# How close to its asymptotes a function must be where the straight tails of a Padé unit begin.
REACH = 0.02


def as_function(source: Source) -> Callable[[Array], Array]:
    """A source as a function of float64 arrays."""
    return lambda x: evaluate(source, torch.from_numpy(np.ascontiguousarray(x))).numpy()


def histogram_of(context: StartContext) -> Histogram:
    """The histogram of the site, or an even one over [-5, 5] where nothing was calibrated."""
    return context.histogram if context.histogram is not None else Histogram.uniform(-5.0, 5.0)


def range_note(context: StartContext) -> str:
    """What the table should say about the range."""
    return "" if context.histogram is not None else "range [-5, 5] assumed, not calibrated"


def channels_of_source(source: Source) -> list[Source]:
    """One source per channel, where constants differ by channel."""
    width = max((len(v) for _, v in source.params if isinstance(v, tuple)), default=1)
    pick: Callable[[Any, int], float] = lambda v, c: v[c] if isinstance(v, tuple) else v  # noqa: E731
    return [Source.of(source.kind, **{n: pick(v, c) for n, v in source.params}) for c in range(width)]


def fit_rational(
    source: Source, context: StartContext, degrees: tuple[int, int], form: str, basis: str = ""
) -> list[PadeFit]:
    """Fit P/Q to a source, one fit per distinct channel of the source.

    Args:
        source: the function to be met.
        context: the histogram of the site.
        degrees: of P and Q.
        form: `A`, `B`, `unsafe` or `best`.
        basis: an orthogonal basis; "" for powers.
    """
    x, w = histogram_of(context).samples()
    known: dict[Source, PadeFit] = {}
    sources = channels_of_source(source)
    for each in sources:
        if each not in known:
            f = as_function(each)
            if basis:
                known[each] = fit_orthogonal(f, x, w, basis, degrees, form, reach=REACH)
            else:
                known[each] = fit_pade(f, x, w, degrees, form, reach=REACH)
    return [known[each] for each in sources]


def flat(rows: list[tuple[float, ...]]) -> Number:
    """Rows of coefficients as one tuple, channel by channel."""
    return tuple(value for row in rows for value in row)


def tails_of(fit: PadeFit) -> tuple[float, ...]:
    """The row of the `tails` buffer."""
    return (fit.scale, fit.lo, fit.hi, fit.slope_lo, fit.slope_hi)


def fit_acon(source: Source, context: StartContext, slopes: str) -> tuple[Number, Number, Number, Start]:
    """Fit (p1, p2, beta) of ACON-C to a source."""
    raise StartError(f"no fit for {source}", why="fits are not there yet")


def fit_lines(source: Source, context: StartContext, count: int) -> Start:
    """Fit the maximum of `count` lines to a source."""
    raise StartError(f"no fit for {source}", why="fits are not there yet")
