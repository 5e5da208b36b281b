"""The search for a denominator: a problem in well-scaled coordinates, many starts, few survivors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from actswap.fit.basis import from_monomial, vander
from actswap.fit.histogram import condense
from actswap.fit.points import Array, Function, sampled
from actswap.fit.starts import starts
from actswap.fit.varpro import Problem, march

_COARSE = 128  # points of the search; only the survivors see all of them


@dataclass(frozen=True)
class Frame:
    """How the search sees a unit: Chebyshev numerator on [lo, hi], denominator functions with peak 1 there.

    Attributes:
        degrees: of numerator and denominator.
        form: `A`, `B` or `unsafe`.
        basis: of the finished unit.
        scale: the finished unit is a function of t = x / scale.
        lo: lower end of the range.
        hi: upper end of the range.
        peaks: (n,) largest absolute value of each denominator function on the range.
    """

    degrees: tuple[int, int]
    form: str
    basis: str
    scale: float
    lo: float
    hi: float
    peaks: Array = field(init=False, compare=False)

    def __post_init__(self) -> None:
        grid = self._features(np.linspace(self.lo, self.hi, 65))
        object.__setattr__(self, "peaks", np.abs(grid).max(axis=0))

    def problem(self, f: Function, x: Array, w: Array) -> Problem:
        """The least-squares problem on points x with weights w."""
        u = (2.0 * x - self.lo - self.hi) / (self.hi - self.lo)
        basis = np.asarray(chebyshev.chebvander(u, self.degrees[0]), dtype=np.float64)
        return Problem(sampled(f, x), np.sqrt(w), basis, self._features(x) / self.peaks, self.form)

    def coefficients(self, b: Array, c: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Numerator and denominator in `basis` on t from what the search found."""
        centre, half = (self.lo + self.hi) / (2 * self.scale), (self.hi - self.lo) / (2 * self.scale)
        powers = np.zeros(len(c))
        for value in chebyshev.cheb2poly(c)[::-1]:  # Horner in u = (t - centre) / half
            powers = (np.append(0.0, powers[:-1]) - centre * powers) / half
            powers[0] += value
        return tuple(from_monomial(self.basis, powers).tolist()), tuple((b / self.peaks).tolist())

    def _features(self, x: Array) -> Array:
        table = vander(self.basis, x / self.scale, self.degrees[1])[:, 1:]
        return np.abs(table) if self.form == "A" else table


def search(
    frame: Frame, f: Function, x: Array, w: Array, kinks: tuple[float, float]
) -> tuple[Problem, Array, NDArray[np.bool_], int]:
    """All starts a few steps on few points, the better ones on, the best to the end on all points.

    Args:
        frame: the unit.
        f: the target.
        x: (N,) points.
        w: (N,) weights.
        kinks: where the target bends most, besides 0.

    Returns:
        the problem on all points, one or two denominators (S, n), the best first, whether each has
        converged, and the number of steps.
    """
    coarse_x, coarse_w = condense(x, w, _COARSE)
    coarse = frame.problem(f, coarse_x, coarse_w)
    b, free = starts(coarse, coarse_x, kinks)
    b, cost, _, first = march(coarse, b, 8, 1e-4, free)
    kept = _best(cost, 5)
    b, cost, _, second = march(coarse, b[kept], 20, 1e-4, free[kept])
    full = frame.problem(f, x, w)
    b, cost, converged, third = march(full, b[_best(cost, 2, tie=1e-3)], 40, 1e-5)
    order = np.argsort(cost, kind="stable")
    return full, b[order], converged[order], first + second + third


def _best(cost: Array, count: int, tie: float = 1e-9) -> list[int]:
    """Indices of the lowest finite costs, best first; a tie is the same fit found twice and is left out."""
    kept: list[int] = []
    for k in np.argsort(cost, kind="stable").tolist():
        known = any(cost[k] <= (1.0 + tie) * cost[j] for j in kept)
        if len(kept) < count and not known and np.isfinite(cost[k]):
            kept.append(k)
    return kept
