"""Coordinates in which the coefficients of a Padé unit train well.

The gradient of F = P/Q with respect to its coefficients v = (numerator, denominator) is
    dF/da_i = f_i / Q,    dF/db_j = -(P / Q^2) g_j,    g_j = dQ/db_j.
Its mean square G over the data has condition numbers of 1e6 to 1e15: one learning rate cannot serve all coefficients.
So the trained parameters are u, with v = centre + mix asinh(u / radius), and u = 0 at the start:

1. mix whitens G + DAMPING * rms(F)^2 H, where H is the mean square of (dQ/db) / Q. H keeps the coordinates away from
   directions in which Q changes much and F little: P and Q times the same number, for example.
2. The eigenvalues of the mean squared gradient of u lie between LARGEST / CONDITION and LARGEST.
3. `radius` is the step of u that changes F by its own largest value, or Q by half, somewhere on the range. Beyond it a
   step counts less and less: a linear step would leave the region in which v -> F is close to linear.
4. The gradient of a direction that hardly changes F is a small difference of large numbers. If rounding `mix` to
   float32 would change it by more than MOST_ROUNDED of itself, that column of mix is 0: the coordinate does not train.
   This happens at high degrees if the fit is exact to rounding, so that lower degrees would do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from actswap.fit.basis import vander
from actswap.fit.points import Array, weighted_points

# Of the mean squared gradient; 1 would be plain gradient descent on the values of F. The gradients of all channels and
# positions add up in the coordinates of a layer. With 0.05 they ran ahead of the weights at rate 0.1: a GELU net ended
# at loss 1.27 instead of 0.96 (benchmarks/curves.py), a ReLU net at accuracy 0.867 (PAU) instead of 0.885
# (benchmarks/fashion_curves.py).
LARGEST = 8e-4
CONDITION = 20.0
DAMPING = 1e-2
MOST_ROUNDED = 0.5
_CHANGE_OF_F, _CHANGE_OF_Q = 1.0, 0.5
_DENSE = 257
_FAINTEST = 1e-7  # below it the rounding of a float32 mix would be larger than the direction


@dataclass(frozen=True)
class Unit:
    """A Padé unit as numbers.

    Attributes:
        basis: `monomial` or an orthogonal basis.
        form: of the denominator: `A`, `B`, `D` (as B), `C` or `unsafe`.
        numerator: a_0 .. a_m.
        denominator: b_1 .. b_n; b_0 .. b_n in form C.
        scale: the unit is a function of t = x / scale.
        lo: lower end of the range, may be -inf.
        hi: upper end of the range, may be inf.
    """

    basis: str
    form: str
    numerator: Array
    denominator: Array
    scale: float
    lo: float
    hi: float

    def parts(self, x: Array) -> tuple[Array, Array, Array]:
        """f_i / Q (N, m + 1), (dQ/db_j) / Q (N, n) and F (N,) at x."""
        t = np.clip(x, self.lo, self.hi) / self.scale
        top, bottom = len(self.numerator), len(self.denominator)
        table = vander(self.basis, t, max(top - 1, bottom))
        features = table[:, :bottom] if self.form == "C" else table[:, 1 : bottom + 1]
        if self.form == "A":
            features = np.abs(features) * np.where(self.denominator < 0.0, -1.0, 1.0)
        inner = features @ self.denominator
        if self.form in ("B", "C", "D"):
            features = features * np.where(inner < 0.0, -1.0, 1.0)[:, None]
            inner = np.abs(inner)
        q = (0.1 if self.form == "C" else 1.0) + inner
        return table[:, :top] / q[:, None], features / q[:, None], table[:, :top] @ self.numerator / q


def coordinates(unit: Unit, x: Array, w: Array) -> tuple[Array, Array]:
    """Find the coordinates of a unit.

    Args:
        unit: where training starts.
        x: (N,) inputs, typically the centroids of a histogram.
        w: (N,) their weights, of sum 1.

    Returns:
        mix (k, k), already multiplied by the radius, and radius (k,): v = centre + mix asinh(u / radius). Columns of
        mix that float32 cannot represent are 0.
    """
    x, w = weighted_points(x, w)
    with np.errstate(all="ignore"):
        return _coordinates(unit, x, w)


def _coordinates(unit: Unit, x: Array, w: Array) -> tuple[Array, Array]:
    gradient, change, f, weight = _finite(unit, x, w)
    root, count = np.sqrt(weight)[:, None], change.shape[1]
    size = max(float(np.sqrt(weight @ f**2)), 1e-3 * unit.scale)
    damped = np.zeros_like(gradient)
    damped[:, -count:] = np.sqrt(DAMPING) * size * change
    whitened = _whitening(np.concatenate([root * gradient, root * damped]))
    # The squares of `found` are the eigenvalues of the mean squared gradient, in [0, 1].
    _, found, turned = np.linalg.svd(root * (gradient @ whitened), full_matrices=False)
    directions = whitened @ turned.T
    directions *= np.sqrt(LARGEST) * np.maximum(1.0, 1.0 / (np.sqrt(CONDITION) * np.maximum(found, _FAINTEST)))
    directions[:, _rounded(root * gradient, directions) > MOST_ROUNDED] = 0.0

    lo, hi = max(unit.lo, float(x.min())), min(unit.hi, float(x.max()))
    if np.isfinite([unit.lo, unit.hi]).all():
        lo, hi = unit.lo, unit.hi
    gradient, change, f, _ = _finite(unit, np.linspace(lo, hi, _DENSE), np.full(_DENSE, 1.0 / _DENSE))
    of_f = np.abs(gradient @ directions).max(axis=0) / max(float(np.abs(f).max()), 1e-3 * unit.scale)
    of_q = np.abs(change @ directions[-count:]).max(axis=0)
    radius = 1.0 / np.maximum(np.maximum(of_f / _CHANGE_OF_F, of_q / _CHANGE_OF_Q), 1e-6)
    return directions * radius, radius


def assumed(unit: Unit) -> tuple[Array, Array]:
    """Inputs for a unit about whose data nothing is known: normal, as wide as its scale says, within its range."""
    spread = unit.scale * (1.0 if unit.basis == "monomial" else 4.0)
    x = spread * ndtri((np.arange(255) + 0.5) / 255)
    x = x[(x >= unit.lo) & (x <= unit.hi)]
    if x.size < 32:  # a range that a normal distribution about 0 misses
        x = np.linspace(max(unit.lo, -3.0 * spread), min(unit.hi, 3.0 * spread), 255)
        x = x if x[0] < x[-1] else np.linspace(unit.lo, unit.hi, 255)
    return x, np.full(x.size, 1.0 / x.size)


def _finite(unit: Unit, x: Array, w: Array) -> tuple[Array, Array, Array, Array]:
    """Gradient (N, k), (dQ/db) / Q (N, n), F (N,) and weights (N,) at the points at which all are finite."""
    top, change, f = unit.parts(x)
    gradient = np.concatenate([top, -f[:, None] * change], axis=1)
    kept = np.isfinite(gradient).all(axis=1) & np.isfinite(change).all(axis=1)
    return gradient[kept], change[kept], f[kept], w[kept]


def _rounded(gradient: Array, directions: Array) -> Array:
    """How far rounding each column of `directions` to float32 changes its gradient, relative to that gradient.

    Entry i of a column changes by at most eps / 2 of itself; the changes are independent, so their squares add.
    """
    change = np.linalg.norm(np.linalg.norm(gradient, axis=0)[:, None] * directions, axis=0)
    size = np.linalg.norm(gradient @ directions, axis=0)
    return np.asarray(np.finfo(np.float32).eps / 2 * change / np.maximum(size, np.finfo(np.float64).tiny))


def _whitening(rows: Array) -> Array:
    """W of shape (k, k) with (rows W)'(rows W) = 1, up to what rounding makes of a singular matrix."""
    norm = np.linalg.norm(rows, axis=0)
    norm = np.where(norm > 0.0, norm, 1.0)
    _, values, vectors = np.linalg.svd(rows / norm, full_matrices=False)
    return np.asarray(vectors.T / np.maximum(values, _FAINTEST * values[0]) / norm[:, None])
