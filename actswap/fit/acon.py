"""ACON-C closest to a given function, and how close its limit is (Ma et al. 2021, Table 1 and eq. 3).

    f(x) = (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x

With k = beta (p1 - p2) fixed, f is linear in (p1 - p2, p2), so the fit is a search along one number, which
is done on a grid first: there is no bad start.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from actswap.errors import StartError
from actswap.fit.points import Array, Function, sampled, weighted_points

MAX_GAP = 0.27846454276107374
"""max_u u·sigmoid(-u), at u = 1.27846454: |ACON-C - max(p1 x, p2 x)| <= MAX_GAP / beta, for all p1, p2."""


@dataclass(frozen=True)
class AconFit:
    """A fitted ACON-C and how good it is.

    Attributes:
        p1: slope at +infinity (for beta (p1 - p2) > 0).
        p2: slope at -infinity.
        beta: sharpness.
        lo: lower end of the points.
        hi: upper end of the points.
        max_error: largest |F - f| on [lo, hi].
        rms_error: root-mean-square of F - f under the weights.
        converged: the search ended by itself, inside the range of sharpness it looks at.
        iterations: Gauss-Newton steps.
    """

    p1: float
    p2: float
    beta: float
    lo: float
    hi: float
    max_error: float
    rms_error: float
    converged: bool
    iterations: int

    def evaluate(self, x: ArrayLike) -> Array:
        """The unit at x, any shape, float64."""
        x = np.asarray(x, dtype=np.float64)
        d = self.p1 - self.p2
        return np.asarray(d * x * expit(self.beta * d * x) + self.p2 * x)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def fit_acon(f: Function, x: ArrayLike, w: ArrayLike | None = None) -> AconFit:
    """Fit (p1, p2, beta) to f on weighted points.

    Args:
        f: the function to be met, float64 array to float64 array.
        x: (N,) points, typically `Histogram.samples()`.
        w: (N,) weights, none for equal ones.

    Returns:
        The fit. For functions that are two straight lines (ReLU, LeakyReLU, PReLU) beta grows to the end of
        the search, and `converged` is false; take beta = MAX_GAP / tolerance there.

    Raises:
        StartError: f(0) is not 0, so no ACON is near it.
        UsageError: points that are not finite.
    """
    points, weights = weighted_points(x, w)
    lo, hi = float(points[0]), float(points[-1])
    dense = np.linspace(lo, hi, 2001)
    y, on_dense = sampled(f, points), sampled(f, dense)
    at_zero = float(f(np.zeros(1))[0])
    if abs(at_zero) > 1e-6 * (1.0 + float(np.abs(on_dense).max())):
        raise StartError(
            "no ACON is close to this function",
            why=f"ACON(0) = 0 for all p1, p2, beta, but the function is {at_zero:.4g} there",
            fix='start="morph", or a target with a bias: pau, opau',
        )
    root_w = np.sqrt(weights)
    unit = float(np.sqrt(weights @ points**2)) or 1.0
    grid = np.geomspace(1e-2, 1e4, 121) / unit
    costs = [_project(points, y, root_w, k)[1] for k in grid]
    k, cost = float(grid[int(np.argmin(costs))]), float(min(costs))
    step, iterations, converged = np.inf, 0, False
    while iterations < 60 and not converged:
        iterations += 1
        step = _newton_step(points, y, root_w, k)
        while (trial := _project(points, y, root_w, k + step)[1]) > cost and abs(step) > 1e-15 * k:
            step *= 0.5
        if trial <= cost:
            converged = cost - trial <= 1e-14 * cost or abs(step) <= 1e-15 * k
            k, cost = k + step, trial
        else:
            converged = True
    (d, p2), _ = _project(points, y, root_w, k)
    # A straight line needs no sharpness; a finite one keeps the unit trainable.
    beta = k / d if abs(d) > 1e-12 else 1.0
    fit = AconFit(float(p2 + d), float(p2), float(beta), lo, hi, 0.0, 0.0, converged and k < grid[-1], iterations)
    at_points = fit.evaluate(points) - y
    largest = max(np.abs(at_points).max(), np.abs(fit.evaluate(dense) - on_dense).max())
    return AconFit(
        **{**fit.to_dict(), "max_error": float(largest), "rms_error": float(np.sqrt(weights @ at_points**2))}
    )


def _project(x: Array, y: Array, root_w: Array, k: float) -> tuple[Array, float]:
    """Best (p1 - p2, p2) for one k, and the sum of squares that is left."""
    columns = root_w[:, None] * np.stack([x * expit(k * x), x], axis=1)
    coefficients = np.linalg.lstsq(columns, root_w * y, rcond=1e-12)[0]
    rest = root_w * y - columns @ coefficients
    return coefficients, float(rest @ rest)


def _newton_step(x: Array, y: Array, root_w: Array, k: float) -> float:
    """Gauss-Newton step in k with the linear part projected out (Kaufman's Jacobian)."""
    s = expit(k * x)
    columns = root_w[:, None] * np.stack([x * s, x], axis=1)
    q = np.linalg.qr(columns)[0]
    d = np.linalg.lstsq(columns, root_w * y, rcond=1e-12)[0][0]
    rest = root_w * y - q @ (q.T @ (root_w * y))
    slope = root_w * d * x**2 * s * (1.0 - s)
    slope = slope - q @ (q.T @ slope)
    size = float(slope @ slope)
    return float(slope @ rest) / size if size > 0.0 else 0.0
