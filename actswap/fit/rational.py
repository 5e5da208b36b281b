"""Padé units that start close to a given function: weighted least squares over P/Q.

    F(x) = sum_i a_i t^i / Q(t),  t = x / scale,  with (PAU paper, Molina et al. 2020, and its successors)
    form `A`       Q = 1 + sum_j |b_j| |t|^j      (safe, the paper's)
    form `B`       Q = 1 + |sum_j b_j t^j|        (safe)
    form `unsafe`  Q = 1 + sum_j b_j t^j          (may have poles outside the data)

Instead of powers, P and Q may be written in an orthogonal basis (see `orthogonal`). Beyond [lo, hi] the input
is clamped and a straight line is added, because P/Q of type (n+1, n) has the same slope at both infinities.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from actswap.errors import UsageError
from actswap.fit.basis import to_monomial, vander
from actswap.fit.minimax import refine
from actswap.fit.points import Array, Function, mixed, sampled, weighted_points
from actswap.fit.search import Frame, search
from actswap.fit.starts import bends
from actswap.fit.tails import reach_asymptote, tail_slopes

FORMS = ("A", "B", "unsafe")

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
            terms = np.abs(terms)
        inner = terms @ np.array(self.denominator)
        q = 1.0 + (np.abs(inner) if self.form == "B" else inner)
        return np.asarray((table[..., : m + 1] @ np.array(self.numerator)) / q)

    def evaluate(self, x: ArrayLike) -> Array:
        """The unit with clamp and tails: any shape of x, float64."""
        x = np.asarray(x, dtype=np.float64)
        inside = self.rational(np.clip(x, self.lo, self.hi))
        return inside + self.slope_lo * np.minimum(x - self.lo, 0.0) + self.slope_hi * np.maximum(x - self.hi, 0.0)

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
    guard: float = 1.0,
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
        guard: with `reach`, how much the widened range and its ends weigh, 1 for 2 % and 15 %.
        minimax: make the largest error on the range small instead of the weighted mean square.

    Returns:
        The fit; the same arguments give the same bits.

    Raises:
        UsageError: unknown form or basis, degrees below 1, points or function values that are not finite.
    """
    if form == "best":
        options = {"basis": basis, "scale": scale, "reach": reach, "guard": guard, "minimax": minimax}
        fits = [fit_pade(f, x, w, degrees, each, **options) for each in ("A", "B")]  # type: ignore[arg-type]
        return min(fits, key=lambda fit: fit.max_error if minimax else fit.rms_error)
    if form not in FORMS:
        raise UsageError(f"unknown form {form!r}", why=f"one of best, {', '.join(FORMS)}", fix='form="best"')
    if min(degrees) < 1:
        raise UsageError(f"degrees {degrees}", why="both must be at least 1", fix="degrees=(5, 4)")
    points, weights = weighted_points(x, w)
    if reach is not None:
        points, weights = _widened(f, points, weights, reach, guard)
    lo, hi = float(points[0]), float(points[-1])
    s = scale or float(np.sqrt(weights @ points**2)) or 1.0

    frame = Frame(degrees, form, basis, s, lo, hi)
    dense = np.linspace(lo, hi, _DENSE)
    on_dense = sampled(f, dense)
    full, found, converged, steps = search(frame, f, points, weights, bends(on_dense, dense))
    if minimax:
        grid = frame.problem(f, dense, np.full(_DENSE, 1.0 / _DENSE))
        b, c, done, programs = refine(grid, found)
    else:
        b, c, done, programs = found[0], full.numerator(found[0]), bool(converged[0]), 0
    coefficients, slopes = frame.coefficients(b, c), tail_slopes(f, lo, hi)
    fit = PadeFit(form, basis, *coefficients, s, lo, hi, *slopes, 0.0, 0.0, done, steps + programs)
    at_points = np.abs(fit.rational(points) - full.y)
    largest = max(at_points.max(), np.abs(fit.rational(dense) - on_dense).max())
    return replace(fit, max_error=float(largest), rms_error=float(np.sqrt(weights @ at_points**2)))


def _widened(f: Function, points: Array, weights: Array, tolerance: float, guard: float) -> tuple[Array, Array]:
    """Reach the asymptotes, and hold the ends: their error is the error of everything beyond them."""
    lo, hi = reach_asymptote(f, float(points[0]), float(points[-1]), tolerance)
    if (lo, hi) != (points[0], points[-1]):
        points, weights = mixed(points, weights, np.linspace(lo, hi, 128), 0.02 * guard)
    return mixed(points, weights, np.array([lo, hi]), 0.15 * guard)
