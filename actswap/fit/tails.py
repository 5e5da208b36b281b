"""What a function does far away: the straight lines that continue a fit beyond its range."""

from __future__ import annotations

import numpy as np

from actswap.fit.points import Function


def tail_slopes(f: Function, lo: float, hi: float) -> tuple[float, float]:
    """Slopes of the asymptotes of f; without an asymptote (x^2, say), its own slope at that end of the range."""
    far = [_asymptote(f, sign, lo, hi) for sign in (-1.0, 1.0)]
    step = 1e-4 * (hi - lo)
    edge = f(np.array([lo - step, lo, hi, hi + step]))
    local = ((edge[1] - edge[0]) / step, (edge[3] - edge[2]) / step)
    found = [line[0] if line else slope for line, slope in zip(far, local, strict=True)]
    return float(found[0]) + 0.0, float(found[1]) + 0.0  # no negative zero


def reach_asymptote(f: Function, lo: float, hi: float, tolerance: float) -> tuple[float, float]:
    """Widen [lo, hi] to where f has come within `tolerance` of its asymptotes.

    An end is left alone if that does not happen within 16, or twice the range: softsign gets there too
    slowly for a rational function to be worth it.
    """
    limit = max(16.0, 2.0 * abs(lo), 2.0 * abs(hi))
    ends = []
    for sign, end in ((-1.0, lo), (1.0, hi)):
        line = _asymptote(f, sign, lo, hi)
        if line:
            x = np.linspace(end, sign * limit, 1025)
            away = np.flatnonzero(np.abs(f(x) - line[0] * x - line[1]) > tolerance)
            if away.size and away[-1] < x.size - 1:
                end = float(x[away[-1] + 1])
        ends.append(end)
    return ends[0], ends[1]


def _asymptote(f: Function, sign: float, lo: float, hi: float) -> tuple[float, float] | None:
    """Slope and offset of the asymptote on one side, None if f is not straight there or not finite."""
    # Powers of two: the slope of a piecewise linear function comes out exact.
    r = sign * 2.0 ** (20 + np.ceil(np.log2(max(1.0, abs(lo), abs(hi)))))
    with np.errstate(all="ignore"):
        y = f(np.array([r, 2.0 * r, 4.0 * r]))
    if not np.isfinite(y).all():
        return None
    near, farther = (y[1] - y[0]) / r, (y[2] - y[1]) / (2.0 * r)
    if abs(near - farther) > 1e-5 * (1.0 + abs(near)):
        return None
    return float(near), float(y[0] - near * r)
