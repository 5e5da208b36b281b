"""The maximum of K straight lines closest to a given function: a start for DY-ReLU (Chen et al. 2020, eq. 1).

In one dimension max_k (a_k x + b_k) is a convex continuous polygon. With its corners fixed it is linear in
the first line and in the jumps of slope, which must not be negative: a non-negative least-squares problem.
The corners are searched.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from actswap.errors import UsageError
from actswap.fit.points import Array, Function, sampled, weighted_points
from actswap.fit.starts import bends

_CANDIDATES = 21  # corners tried at first; all pairs of them for K = 3


@dataclass(frozen=True)
class MaxAffineFit:
    """Fitted lines and how good their maximum is.

    Attributes:
        slopes: a_1 .. a_K, increasing.
        offsets: b_1 .. b_K.
        lo: lower end of the points.
        hi: upper end of the points.
        max_error: largest |F - f| on [lo, hi]; large if f is not convex.
        rms_error: root-mean-square of F - f under the weights.
        converged: the corners have settled.
        iterations: rounds of the corner search.
    """

    slopes: tuple[float, ...]
    offsets: tuple[float, ...]
    lo: float
    hi: float
    max_error: float
    rms_error: float
    converged: bool
    iterations: int

    def evaluate(self, x: ArrayLike) -> Array:
        """The maximum at x, any shape, float64."""
        x = np.asarray(x, dtype=np.float64)
        return np.asarray((x[..., None] * np.array(self.slopes) + np.array(self.offsets)).max(axis=-1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def fit_max_affine(f: Function, x: ArrayLike, w: ArrayLike | None = None, lines: int = 2) -> MaxAffineFit:
    """Fit the maximum of `lines` straight lines to f on weighted points.

    Args:
        f: the function to be met, float64 array to float64 array; a convex one, to be met well.
        x: (N,) points.
        w: (N,) weights, none for equal ones.
        lines: K.

    Returns:
        The fit; exact for ReLU, LeakyReLU and PReLU with slope at most 1.

    Raises:
        UsageError: fewer than one line, or points that are not finite.
    """
    if lines < 1:
        raise UsageError(f"lines={lines}", why="at least one line is needed", fix="lines=2")
    points, weights = weighted_points(x, w)
    lo, hi = float(points[0]), float(points[-1])
    dense = np.linspace(lo, hi, 2001)
    y, on_dense, root_w = sampled(f, points), sampled(f, dense), np.sqrt(weights)

    def cost(corners: tuple[float, ...]) -> float:
        return _polygon(points, y, root_w, corners)[1]

    # Zero and the bends of f are candidates, so that a function that is a polygon is found exactly.
    inside = [t for t in (0.0, *bends(on_dense, dense)) if lo < t < hi]
    candidates = sorted({*inside, *np.linspace(lo, hi, _CANDIDATES + 2)[1:-1].tolist()})
    corners: tuple[float, ...] = min(combinations(candidates, min(lines - 1, 2)), key=cost)
    while len(corners) < lines - 1:
        corners = min((tuple(sorted((*corners, t))) for t in candidates if t not in corners), key=cost)
    best, step, rounds = cost(corners), (hi - lo) / _CANDIDATES, 0
    while step > 1e-7 * (hi - lo):
        rounds += 1
        moves = [
            tuple(sorted((*corners[:k], t + sign * step, *corners[k + 1 :])))
            for k, t in enumerate(corners)
            for sign in (-1.0, 1.0)
        ]
        trial = min((m for m in moves if lo < m[0] and m[-1] < hi), key=cost, default=corners)
        if cost(trial) < best:
            corners, best = trial, cost(trial)
        else:
            step *= 0.5
    slopes, offsets = _lines(corners, _polygon(points, y, root_w, corners)[0])
    fit = MaxAffineFit(slopes, offsets, lo, hi, 0.0, 0.0, True, rounds)
    at_points = fit.evaluate(points) - y
    largest = max(np.abs(at_points).max(), np.abs(fit.evaluate(dense) - on_dense).max())
    return MaxAffineFit(slopes, offsets, lo, hi, float(largest), float(np.sqrt(weights @ at_points**2)), True, rounds)


def _polygon(x: Array, y: Array, root_w: Array, corners: tuple[float, ...]) -> tuple[Array, float]:
    """(offset, slope, jumps >= 0) of the best polygon with these corners, and its sum of squares."""
    line = root_w[:, None] * np.stack([np.ones_like(x), x], axis=1)
    q, r = np.linalg.qr(line)
    target = root_w * y
    jumps = np.zeros(len(corners))
    hinges = root_w[:, None] * np.maximum(x[:, None] - np.array(corners), 0.0)
    if corners:
        rest = hinges - q @ (q.T @ hinges)
        jumps = nnls(rest, target - q @ (q.T @ target))[0]
    left = target - hinges @ jumps
    coefficients = np.linalg.lstsq(r, q.T @ left, rcond=None)[0]
    error = left - line @ coefficients
    return np.concatenate([coefficients, jumps]), float(error @ error)


def _lines(corners: tuple[float, ...], parameters: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    offset, slope, jumps = float(parameters[0]), float(parameters[1]), parameters[2:].tolist()
    slopes, offsets = [slope], [offset]
    for corner, jump in zip(corners, jumps, strict=True):
        slopes.append(slopes[-1] + jump)
        offsets.append(offsets[-1] - jump * corner)
    return tuple(slopes), tuple(offsets)
