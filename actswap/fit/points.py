"""Weighted points, as every fit of this package takes them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actswap.errors import UsageError

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


def sampled(f: Function, x: Array) -> Array:
    """f(x), checked: finite, and of the shape of x."""
    y = np.asarray(f(x), dtype=np.float64)
    if y.shape != x.shape or not np.isfinite(y).all():
        raise UsageError(
            "the function to fit returned values that are not finite, or of another shape",
            why=f"on [{x.min():g}, {x.max():g}]",
            fix="clip the points to where it is finite",
        )
    return y


def weighted_points(x: ArrayLike, w: ArrayLike | None) -> tuple[Array, Array]:
    """Sorted finite points with weights of sum 1, over a range of positive width."""
    points = np.asarray(x, dtype=np.float64).reshape(-1)
    weights = np.ones(points.size) if w is None else np.asarray(w, dtype=np.float64).reshape(-1)
    if not points.size or points.shape != weights.shape or not np.isfinite(points).all():
        raise UsageError(
            f"cannot fit on {points.size} points with {weights.size} weights",
            why="finite, as many as weights",
        )
    if not (weights >= 0.0).all() or not 0.0 < weights.sum() < np.inf:
        raise UsageError("weights must be non-negative with a finite positive sum")
    order = np.argsort(points, kind="stable")
    points, weights = points[order], weights[order] / weights.sum()
    size = float(max(abs(points[0]), abs(points[-1]))) or 1.0
    if points[-1] - points[0] < 1e-3 * size or np.count_nonzero(weights) < 64:
        # Constant or nearly constant input: a unit cannot be fitted to a dot, so its neighbourhood
        # counts a little.
        widen = 5e-4 * size if points[-1] - points[0] < 1e-3 * size else 0.0
        extra = np.linspace(points[0] - widen, points[-1] + widen, 128)
        points, weights = mixed(points, weights, extra, 0.02)
    return points, weights


def mixed(points: Array, weights: Array, extra: Array, share: float) -> tuple[Array, Array]:
    """Add points that carry `share` of the weight."""
    x = np.concatenate([points, extra])
    w = np.concatenate([(1.0 - share) * weights, np.full(extra.size, share / extra.size)])
    order = np.argsort(x, kind="stable")
    return x[order], w[order]
