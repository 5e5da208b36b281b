"""Orthogonal Padé units (OPAU, Biswas et al. 2021): P and Q in one of six classical bases.

    G(x) = sum_i c_i f_i(t) / (1 + sum_j |d_j| |f_j(t)|)   safe (form `A`);  without the bars: `unsafe`

The numerator spans the same polynomials as a PAU's, the safe denominator does not: it has a corner at every
root of every f_j. So a PAU cannot be converted, it is fitted anew.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from actswap.errors import UsageError
from actswap.fit.basis import BASES
from actswap.fit.points import Function, weighted_points
from actswap.fit.rational import PadeFit, fit_pade

ORTHOGONAL = tuple(name for name in BASES if name != "monomial")


def fit_orthogonal(
    f: Function,
    x: ArrayLike,
    w: ArrayLike | None = None,
    basis: str = "chebyshev_t",
    degrees: tuple[int, int] = (5, 4),
    form: str = "A",
    *,
    scale: float | None = None,
    reach: float | None = None,
    guard: float = 1.0,
    minimax: bool = False,
) -> PadeFit:
    """Fit an OPAU; arguments, result and errors as for `fit_pade`.

    Args:
        f: the function to be met, float64 array to float64 array.
        x: (N,) points.
        w: (N,) weights, none for equal ones.
        basis: one of `ORTHOGONAL`.
        degrees: of numerator and denominator.
        form: `A` (safe, the paper's), `B`, `unsafe` or `best`.
        scale: the s of t = x / s; a quarter of the root mean square of x unless given. With a smaller s most
            of the data lies beyond the roots of f_j, where |f_j| has no corners: relu on ±3 in Chebyshev T
            has an RMS error of 0.025 with s = rms, 0.0055 with a quarter of it. Laguerre gains least.
        reach: widen the range to the asymptotes of f.
        guard: how much the widened range and its ends weigh.
        minimax: make the largest error small.

    Returns:
        The fit, with `basis` set.
    """
    if basis not in ORTHOGONAL:
        raise UsageError(f"unknown basis {basis!r}", why=f"one of {', '.join(ORTHOGONAL)}", fix='basis="legendre"')
    if scale is None:
        points, weights = weighted_points(x, w)
        scale = 0.25 * float(np.sqrt(weights @ points**2)) or 1.0
    return fit_pade(f, x, w, degrees, form, basis=basis, scale=scale, reach=reach, guard=guard, minimax=minimax)
