"""Starts by fit: the numerics of `actswap.fit` on the histogram of a site."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.optimize import least_squares

from actswap.activations.base import StartContext
from actswap.activations.plain import evaluate
from actswap.fit.acon import AconFit, fit_acon
from actswap.fit.histogram import Histogram
from actswap.fit.max_affine import MaxAffineFit, fit_max_affine
from actswap.fit.orthogonal import fit_orthogonal
from actswap.fit.points import Array, mixed
from actswap.fit.rational import PadeFit, fit_pade
from actswap.fit.tails import reach_asymptote
from actswap.sites import Number, Source, Start

Fitted = TypeVar("Fitted", PadeFit, AconFit, MaxAffineFit)

# How close to its asymptotes a function must be where the straight tails of a Padé unit begin.
REACH = 0.02
# What holding the range beyond the data may cost: the RMS error on the data, as a factor of the free fit's.
MAX_COST = 1.05


def as_function(source: Source) -> Callable[[Array], Array]:
    """A source as a function of float64 arrays."""
    return lambda x: evaluate(source, torch.from_numpy(np.array(x))).numpy()


def histogram_of(context: StartContext) -> Histogram:
    """The histogram of the site, or an even one over [-5, 5] if nothing was calibrated."""
    return context.histogram if context.histogram is not None else Histogram.uniform(-5.0, 5.0)


def range_note(context: StartContext) -> str:
    """What the table should say about the range."""
    return "" if context.histogram is not None else "range [-5, 5] assumed, not calibrated"


def channels_of_source(source: Source) -> list[Source]:
    """Return one source per channel if constants differ by channel, else the source alone."""
    width = max((len(v) for _, v in source.params if isinstance(v, tuple)), default=1)
    pick: Callable[[Any, int], float] = lambda v, c: v[c] if isinstance(v, tuple) else v  # noqa: E731
    return [replace(source, params=tuple((n, pick(v, c)) for n, v in source.params)) for c in range(width)]


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
    h = histogram_of(context)
    bounded = context.options.get("tails", "linear") != "none"
    find = _minimax_rational if context.minimax else _guarded_rational
    known: dict[Source, PadeFit] = {}
    sources = channels_of_source(source)
    for each in sources:
        if each not in known:
            known[each] = find(as_function(each), h, degrees, form, basis, bounded)
    return [known[each] for each in sources]


def _guarded_rational(
    f: Callable[[Array], Array], h: Histogram, degrees: tuple[int, int], form: str, basis: str, bounded: bool
) -> PadeFit:
    """The fit that holds its range and ends as firmly as MAX_COST allows; `rms_error` is that on the data alone."""

    def fit(guard: float, reach: float | None) -> PadeFit:
        x, w = h.samples(0.02 * guard)
        if reach is not None and not bounded:
            x, w, reach = *_beyond(f, x, w, 0.02 * guard), None
        if basis:
            return fit_orthogonal(f, x, w, basis, degrees, form, reach=reach, guard=guard)
        return fit_pade(f, x, w, degrees, form, reach=reach, guard=guard)

    # Wide range first, held less and less; then the range of the data; the free fit last.
    tries = [(1 / 8, REACH), (1 / 64, REACH), (1 / 512, REACH), (1 / 64, math.inf), (1 / 512, math.inf)]
    found = _affordable([partial(fit, *each) for each in (*(tries if bounded else tries[:3]), (0.0, None))], f, h)
    return replace(found, rms_error=_rms(found, f, h))


def _minimax_rational(
    f: Callable[[Array], Array], h: Histogram, degrees: tuple[int, int], form: str, basis: str, bounded: bool
) -> PadeFit:
    """The fit with the smallest largest error on the range of the data."""
    x, w = h.samples()
    if basis:
        found = fit_orthogonal(f, x, w, basis, degrees, form, minimax=True)
    else:
        found = fit_pade(f, x, w, degrees, form, minimax=True)
    return replace(found, rms_error=_rms(found, f, h))


def _affordable(fits: Sequence[Callable[[], Fitted]], f: Callable[[Array], Array], h: Histogram) -> Fitted:
    """The first of the fits whose RMS error on the data is at most MAX_COST times that of the last, the free one."""
    free = fits[-1]()
    # Below float32's rounding no difference can be seen in a network.
    rounding = float(np.finfo(np.float32).eps) / 2 * float(np.sqrt(h.weights @ f(h.centroids) ** 2))
    allowed = max(MAX_COST * _rms(free, f, h), rounding)
    for fit in fits[:-1]:
        found = fit()
        if _rms(found, f, h) <= allowed:
            return found
    return free


def _rms(fit: PadeFit | AconFit | MaxAffineFit, f: Callable[[Array], Array], h: Histogram) -> float:
    """Root-mean-square of fit - f on the data."""
    return float(np.sqrt(h.weights @ (fit.evaluate(h.centroids) - f(h.centroids)) ** 2))


def flat(rows: list[tuple[float, ...]]) -> Number:
    """Rows of coefficients as one tuple, channel by channel."""
    return tuple(value for row in rows for value in row)


def tails_of(fit: PadeFit) -> tuple[float, ...]:
    """The row of the `tails` buffer."""
    return (fit.scale, fit.lo, fit.hi, fit.slope_lo, fit.slope_hi)


def fit_acon_c(source: Source, context: StartContext, slopes: str) -> tuple[Number, Number, Number, Start]:
    """Fit ACON-C to a source by weighted least squares.

    Args:
        source: the function to be met, 0 at 0.
        context: the histogram of the site.
        slopes: which slopes may vary, `"p1 p2"`, `"p2"` (p1 is 1) or `""` (1 and 0).

    Returns:
        p1, p2, beta (numbers, or tuples by channel) and a Start without parameters.
    """
    fitter = fit_acon if slopes == "p1 p2" else partial(fit_restricted, slopes=slopes)
    sources = [as_function(each) for each in channels_of_source(source)]
    fits = [_guarded(fitter, f, context) for f in sources]
    p1, p2, beta = (tuple(getattr(fit, name) for fit in fits) for name in ("p1", "p2", "beta"))
    start = _measured(list(zip(fits, sources, strict=True)), context)
    return (p1, p2, beta, start) if len(fits) > 1 else (p1[0], p2[0], beta[0], start)


def _guarded(fit: Callable[..., Fitted], f: Callable[[Array], Array], context: StartContext) -> Fitted:
    """A fit with as much weight beyond the data as MAX_COST allows.

    These units have no tails of their own: what fits a narrow range alone may be anything beyond it.
    """
    h = histogram_of(context)

    def guarded(share: float) -> Fitted:
        x, w = h.samples(share)
        return fit(f, *(_beyond(f, x, w, share) if share else (x, w)))

    return _affordable([partial(guarded, 0.02 / 8**k) for k in range(6)] + [partial(guarded, 0.0)], f, h)


def _beyond(f: Callable[[Array], Array], x: Array, w: Array, share: float) -> tuple[Array, Array]:
    """Add points that carry this share of the weight, to twice as far as f bends, on both sides."""
    end = 2.0 * max(abs(v) for v in reach_asymptote(f, float(x[0]), float(x[-1]), REACH))
    return mixed(x, w, np.linspace(-end, end, 128), share)


def fit_restricted(f: Callable[[Array], Array], x: Array, w: Array, slopes: str) -> AconFit:
    """ACON-B (p2 and beta vary) or ACON-A (beta alone); beta is positive."""

    def unit(v: Array) -> AconFit:
        return AconFit(1.0, float(v[1]) if slopes else 0.0, float(np.exp(v[0])), x[0], x[-1], 0.0, 0.0, True, 0)

    y, root = f(x), np.sqrt(w)
    starts = [np.array([log_beta, 0.0][: 1 + bool(slopes)]) for log_beta in (0.0, 1.0)]
    found = [least_squares(lambda v: root * (unit(v).evaluate(x) - y), v, max_nfev=200) for v in starts]
    best = min(found, key=lambda result: float(result.cost))
    return unit(best.x)


def fit_lines(source: Source, context: StartContext, count: int) -> Start:
    """Fit the maximum of `count` lines to a source: parameters of a DY-ReLU, the steepest line first."""
    sources = [as_function(each) for each in channels_of_source(source)]
    fits = [_guarded(lambda f, x, w: fit_max_affine(f, x, w, count), f, context) for f in sources]
    rows = np.array([[*fit.slopes[::-1], *fit.offsets[::-1]] for fit in fits]).T
    params: dict[str, Number] = {"fc2.weight": 0.0, "fc2.bias": 0.0, "init": tuple(rows.flatten().tolist())}
    return replace(_measured(list(zip(fits, sources, strict=True)), context), params=params)


def _measured(fits: Sequence[tuple[AconFit | MaxAffineFit, Callable[[Array], Array]]], context: StartContext) -> Start:
    """A start with the largest and the RMS error of the fits on the histogram alone."""
    h = histogram_of(context)
    dense, error, rms = np.linspace(h.lo, h.hi, 2001), 0.0, 0.0
    for fit, f in fits:
        off = fit.evaluate(h.centroids) - f(h.centroids)
        error = max(error, float(np.abs(off).max()), float(np.abs(fit.evaluate(dense) - f(dense)).max()))
        rms = max(rms, float(np.sqrt(h.weights @ off**2)))
    return Start("fit", error=error, rms=rms, note="; ".join(filter(None, (range_note(context), _far_note(fits, h)))))


def _far_note(fits: Sequence[tuple[AconFit | MaxAffineFit, Callable[[Array], Array]]], h: Histogram) -> str:
    """Say how far off the fits are beyond the data, if that is more than a tenth of the function itself."""
    for fit, f in fits:
        end = 2.0 * max(abs(v) for v in reach_asymptote(f, h.lo, h.hi, REACH))
        x = np.linspace(-end, end, 257)
        off = np.abs(fit.evaluate(x) - f(x))
        if off.max() > 0.1 * np.abs(f(x)).max():
            return f"beyond the data it is off by up to {off.max():.2g}, at x = {x[off.argmax()]:.3g}"
    return ""
