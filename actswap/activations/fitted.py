"""Starts by fit: the numerics of `actswap.fit` on the histogram of a site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit

from actswap.activations.base import StartContext
from actswap.activations.plain import evaluate
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
    """Fit ACON-C to a source by weighted least squares.

    Args:
        source: the function to be met, 0 at 0.
        context: the histogram of the site.
        slopes: which slopes may vary, `"p1 p2"`, `"p2"` (p1 is 1) or `""` (1 and 0).

    Returns:
        p1, p2, beta (numbers, or tuples by channel) and a Start without parameters.
    """
    free = {"p1 p2": 2, "p2": 1, "": 0}[slopes]

    def lines(v: Array) -> tuple[float, float, float]:
        return (float(v[1]) if free == 2 else 1.0, float(v[free]) if free else 0.0, float(np.exp(v[0])))

    def unit(v: Array, x: Array) -> Array:
        p1, p2, beta = lines(v)
        dpx = (p1 - p2) * x
        return np.asarray(dpx * expit(beta * dpx) + p2 * x)

    starts = [np.array([log_beta, 1.0, 0.0][: 1 + free] if free != 1 else [log_beta, 0.0]) for log_beta in (0.0, 1.0)]
    found = [_least_squares(unit, each, context, starts) for each in channels_of_source(source)]
    rows = [lines(v) for v, _, _ in found]
    columns = [tuple(row[i] for row in rows) if len(rows) > 1 else rows[0][i] for i in range(3)]
    return columns[0], columns[1], columns[2], _fit_start(found, context)


def fit_lines(source: Source, context: StartContext, count: int) -> Start:
    """Fit the maximum of `count` lines to a source by weighted least squares: parameters of a DY-ReLU."""

    def unit(v: Array, x: Array) -> Array:
        return np.asarray((v[:count, None] * x + v[count:, None]).max(0))

    found = []
    for each in channels_of_source(source):
        f, h = as_function(each), histogram_of(context)
        starts = [_tangents(f, h, count, spread) for spread in (0.3, 0.6, 0.9)]
        found.append(_least_squares(unit, each, context, starts))
    rows = np.stack([v for v, _, _ in found], axis=1)
    params: dict[str, Number] = {
        "fc2.weight": 0.0,
        "fc2.bias": 0.0,
        "init": tuple(float(value) for value in rows.flatten()),
    }
    return replace(_fit_start(found, context), params=params)


def _tangents(f: Callable[[Array], Array], h: Histogram, count: int, spread: float) -> Array:
    """Slopes and shifts of tangents at points spread about the middle of the range, steepest first."""
    middle, half = 0.5 * (h.lo + h.hi), 0.5 * max(h.hi - h.lo, 1e-3)
    at = middle + spread * half * (np.linspace(1.0, -1.0, count) if count > 1 else np.zeros(1))
    step = 1e-4 * half
    slope = (f(at + step) - f(at - step)) / (2 * step)
    return np.concatenate([slope, f(at) - slope * at])


def _least_squares(
    unit: Callable[[Array, Array], Array], source: Source, context: StartContext, starts: list[Array]
) -> tuple[Array, float, float]:
    """The best of several starts: parameters, largest error on the range, and RMS under the histogram."""
    h, f = histogram_of(context), as_function(source)
    x, w = h.samples()
    y, root = f(x), np.sqrt(w / w.sum())
    fits = [least_squares(lambda v: root * (unit(v, x) - y), start, max_nfev=200) for start in starts]
    best = min(fits, key=lambda fit: float(fit.cost)).x
    dense = np.linspace(h.lo, h.hi, 2001)
    error = max(np.abs(unit(best, dense) - f(dense)).max(), np.abs(unit(best, x) - y).max())
    return best, float(error), float(np.sqrt(np.sum((root * (unit(best, x) - y)) ** 2)))


def _fit_start(found: list[tuple[Array, float, float]], context: StartContext) -> Start:
    return Start(
        "fit",
        error=max(error for _, error, _ in found),
        rms=max(rms for _, _, rms in found),
        note=range_note(context),
    )
