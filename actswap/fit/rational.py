"""Padé units that start close to a given function: weighted least squares over P/Q.

    F(x) = sum_i a_i t^i / Q(t),  t = x / scale,  with (PAU paper, Molina et al. 2020, and its successors)
    form `A`       Q = 1 + sum_j |b_j| |t|^j      (safe, the paper's)
    form `B`       Q = 1 + |sum_j b_j t^j|        (safe)
    form `unsafe`  Q = 1 + sum_j b_j t^j          (may have poles outside the data)

Instead of powers, P and Q may be written in an orthogonal basis (see `orthogonal`). Beyond [lo, hi] the input
is clamped and a straight line is added, because P/Q of type (n+1, n) has the same slope at both infinities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from actswap.errors import UsageError
from actswap.fit.basis import from_monomial, to_monomial, vander
from actswap.fit.histogram import condense
from actswap.fit.minimax import refine
from actswap.fit.starts import bends, starts
from actswap.fit.tails import reach_asymptote, tail_slopes
from actswap.fit.varpro import Problem, march

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
FORMS = ("A", "B", "unsafe")

_COARSE = 128  # points of the search; only the winner sees all of them
_DENSE = 2001  # points on which the largest error is measured


@dataclass(frozen=True)
class PadeFit:
    """A fitted unit and how good it is.

    Attributes:
        form: `A`, `B` or `unsafe`.
        basis: `monomial`, or one of the orthogonal bases.
        numerator: a_0 .. a_m.
        denominator: b_1 .. b_n; not negative in form A.
        scale: the unit is a function of t = x / scale.
        lo: lower end of the range of the fit; the input is clamped there.
        hi: upper end.
        slope_lo: slope of the line that is added below lo.
        slope_hi: slope of the line that is added above hi.
        max_error: largest |F - f| on [lo, hi].
        rms_error: root-mean-square of F - f under the weights of the fit.
        converged: the search ended by itself, not at its iteration limit.
        iterations: Levenberg-Marquardt steps (and linear programs with minimax) of the search.
    """

    form: str
    basis: str
    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    scale: float
    lo: float
    hi: float
    slope_lo: float
    slope_hi: float
    max_error: float
    rms_error: float
    converged: bool
    iterations: int

    @property
    def degrees(self) -> tuple[int, int]:
        """Degrees of numerator and denominator."""
        return len(self.numerator) - 1, len(self.denominator)

    @property
    def poles(self) -> tuple[float, ...]:
        """Real zeros of Q, as inputs x, increasing; the safe forms have none."""
        if self.form != "unsafe":
            return ()
        powers = to_monomial(self.basis, np.array([1.0, *self.denominator]))
        # f_0 = 1 carries the constant; coefficients at rounding level would only put roots near infinity.
        roots = np.roots(powers[::-1])
        real = roots[np.abs(roots.imag) <= 1e-8 * (1.0 + np.abs(roots))].real
        return tuple(float(x) for x in np.sort(real * self.scale))

    def rational(self, x: ArrayLike) -> Array:
        """P/Q alone, without clamp and tails, in float64."""
        t = np.asarray(x, dtype=np.float64) / self.scale
        m, n = self.degrees
        table = vander(self.basis, t, max(m, n))
        terms = table[..., 1 : n + 1]
        if self.form == "A":
            q = 1.0 + np.abs(terms) @ np.abs(self.denominator)
        else:
            inner = terms @ np.array(self.denominator)
            q = 1.0 + (np.abs(inner) if self.form == "B" else inner)
        return np.asarray((table[..., : m + 1] @ np.array(self.numerator)) / q)

    def evaluate(self, x: ArrayLike) -> Array:
        """The unit with clamp and tails: any shape of x, float64."""
        x = np.asarray(x, dtype=np.float64)
        inside = self.rational(np.clip(x, self.lo, self.hi))
        return (
            inside
            + self.slope_lo * np.minimum(x - self.lo, 0.0)
            + self.slope_hi * np.maximum(x - self.hi, 0.0)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def fit_pade(
    f: Function,
    x: ArrayLike,
    w: ArrayLike | None = None,
    degrees: tuple[int, int] = (5, 4),
    form: str = "best",
    *,
    basis: str = "monomial",
    scale: float | None = None,
    reach: float | None = None,
    minimax: bool = False,
) -> PadeFit:
    """Fit P/Q to f on weighted points.

    Args:
        f: the function to be met, float64 array to float64 array; also called between and beyond the points.
        x: (N,) points, typically `Histogram.samples()`; their smallest and largest set the range.
        w: (N,) weights, none for equal ones.
        degrees: of numerator and denominator.
        form: `A`, `B`, `unsafe`, or `best`: both safe forms, the better is kept.
        basis: functions that P and Q are made of.
        scale: the s of t = x / s; the root mean square of x unless given, which conditions training best.
        reach: widen the range to where f is within this distance of its asymptotes: the tails are right then.
        minimax: make the largest error on the range small instead of the weighted mean square.

    Returns:
        The fit; the same arguments give the same bits.

    Raises:
        UsageError: unknown form or basis, degrees below 1, points or function values that are not finite.
    """
    if form == "best":
        options = {"basis": basis, "scale": scale, "reach": reach, "minimax": minimax}
        fits = [fit_pade(f, x, w, degrees, each, **options) for each in ("A", "B")]  # type: ignore[arg-type]
        return min(fits, key=lambda fit: fit.max_error if minimax else fit.rms_error)
    if form not in FORMS:
        raise UsageError(f"unknown form {form!r}", why=f"one of best, {', '.join(FORMS)}", fix='form="best"')
    if min(degrees) < 1:
        raise UsageError(f"degrees {degrees}", why="both must be at least 1", fix="degrees=(5, 4)")
    points, weights = _points(x, w)
    if reach is not None:
        points, weights = _widened(f, points, weights, reach)
    lo, hi = float(points[0]), float(points[-1])
    s = scale or float(np.sqrt(weights @ points**2)) or 1.0

    frame = _Frame(degrees, form, basis, s, lo, hi)
    full = frame.problem(f, points, weights)
    dense = np.linspace(lo, hi, _DENSE)
    b, cost, done, used = _search(frame, f, full, points, bends(f(dense), dense))
    best = _best(cost, 1)[0]
    winner, converged = b[best], bool(done[best])
    if minimax:
        grid = frame.problem(f, dense, np.full(_DENSE, 1.0 / _DENSE))
        winner, coefficients, converged, more = refine(grid, b)
        used += more
    else:
        coefficients = full.numerator(winner)
    fit = PadeFit(
        form,
        basis,
        *frame.coefficients(winner, coefficients),
        s,
        lo,
        hi,
        *tail_slopes(f, lo, hi),
        0.0,
        0.0,
        converged,
        used,
    )
    error = fit.rational(dense) - f(dense)
    at_points = fit.rational(points) - full.y
    largest = max(np.abs(error).max(), np.abs(at_points).max())
    return replace(fit, max_error=float(largest), rms_error=float(np.sqrt(weights @ at_points**2)))


def _search(
    frame: _Frame, f: Function, full: Problem, points: Array, kinks: tuple[float, float]
) -> tuple[Array, Array, NDArray[np.bool_], int]:
    """All starts a few steps on few points, the better ones on, the best two to the end on all points."""
    x, w = condense(points, full.root_w**2, _COARSE)
    coarse = frame.problem(f, x, w)
    b, free = starts(coarse, x, kinks)
    b, cost, _, first = march(coarse, b, 8, 1e-4, free)
    kept = _best(cost, 5)
    b, cost, _, second = march(coarse, b[kept], 20, 1e-4, free[kept])
    b, cost, done, third = march(full, b[_best(cost, 2)], 40, 1e-6)
    return b, cost, done, first + second + third


@dataclass(frozen=True)
class _Frame:
    """How the search sees the unit: Chebyshev numerator on [lo, hi], features that peak at 1 there."""

    degrees: tuple[int, int]
    form: str
    basis: str
    scale: float
    lo: float
    hi: float

    def problem(self, f: Function, x: Array, w: Array) -> Problem:
        """The least-squares problem on points x with weights w."""
        y = np.asarray(f(x), dtype=np.float64)
        if y.shape != x.shape or not np.isfinite(y).all():
            raise UsageError(
                "the function to fit returned values that are not finite, or of another shape",
                why=f"on [{self.lo:g}, {self.hi:g}]",
                fix="clip the points to where it is finite",
            )
        u = (2.0 * x - self.lo - self.hi) / (self.hi - self.lo)
        basis = np.asarray(chebyshev.chebvander(u, self.degrees[0]), dtype=np.float64)
        return Problem(y, np.sqrt(w), basis, self._features(x) / self._peaks(), self.form)

    def coefficients(self, b: Array, c: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Numerator and denominator in `basis` on t from what the search found."""
        centre, half = (self.lo + self.hi) / (2 * self.scale), (self.hi - self.lo) / (2 * self.scale)
        powers = np.zeros(len(c))
        for value in chebyshev.cheb2poly(c)[::-1]:  # Horner in u = (t - centre) / half
            powers = (np.append(0.0, powers[:-1]) - centre * powers) / half
            powers[0] += value
        return tuple(from_monomial(self.basis, powers).tolist()), tuple((b / self._peaks()).tolist())

    def _features(self, x: Array) -> Array:
        table = vander(self.basis, x / self.scale, self.degrees[1])[:, 1:]
        return np.abs(table) if self.form == "A" else table

    def _peaks(self) -> Array:
        return np.asarray(np.abs(self._features(np.linspace(self.lo, self.hi, 65))).max(axis=0))


def _points(x: ArrayLike, w: ArrayLike | None) -> tuple[Array, Array]:
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
    reach = max(abs(points[0]), abs(points[-1]), 1e-30)
    if points[-1] - points[0] < 1e-3 * reach or np.count_nonzero(weights) < 64:
        # Constant or nearly constant input: a unit cannot be fitted to a dot, so its neighbourhood
        # counts a little.
        widen = 5e-4 * reach if points[-1] - points[0] < 1e-3 * reach else 0.0
        extra = np.linspace(points[0] - widen, points[-1] + widen, 128)
        points, weights = _mixed(points, weights, extra, 0.02)
    return points, weights


def _widened(f: Function, points: Array, weights: Array, tolerance: float) -> tuple[Array, Array]:
    lo, hi = reach_asymptote(f, float(points[0]), float(points[-1]), tolerance)
    if (lo, hi) == (points[0], points[-1]):
        return points, weights
    return _mixed(points, weights, np.linspace(lo, hi, 128), 0.02)


def _mixed(points: Array, weights: Array, extra: Array, share: float) -> tuple[Array, Array]:
    """Add points that carry `share` of the weight."""
    x = np.concatenate([points, extra])
    w = np.concatenate([(1.0 - share) * weights, np.full(extra.size, share / extra.size)])
    order = np.argsort(x, kind="stable")
    return x[order], w[order]


def _best(cost: Array, count: int) -> NDArray[np.intp]:
    return np.argsort(cost, kind="stable")[:count]
