"""Polynomial bases of Padé units by their three-term recurrences, and changes of basis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from actswap.errors import UsageError
from actswap.fit.points import Array

# f_{k+1} = (a·t + b)·f_k - c·f_{k-1}, with f_0 = 1 and f_{-1} = 0; each entry maps k to (a, b, c).
_RECURRENCES: dict[str, Callable[[int], tuple[float, float, float]]] = {
    "monomial": lambda k: (1.0, 0.0, 0.0),
    "chebyshev_t": lambda k: (2.0 if k else 1.0, 0.0, 1.0),
    "chebyshev_u": lambda k: (2.0, 0.0, 1.0),
    "legendre": lambda k: ((2 * k + 1) / (k + 1), 0.0, k / (k + 1)),
    "laguerre": lambda k: (-1.0 / (k + 1), (2 * k + 1) / (k + 1), k / (k + 1)),
    "hermite_prob": lambda k: (1.0, 0.0, float(k)),
    "hermite_phys": lambda k: (2.0, 0.0, 2.0 * k),
}
BASES = tuple(_RECURRENCES)


def vander(basis: str, t: Array, degree: int) -> Array:
    """Values f_0 .. f_degree at t: (N,) -> (N, degree + 1)."""
    recurrence = _recurrence(basis)
    columns = [np.ones_like(t)]
    before = np.zeros_like(t)
    for k in range(degree):
        a, b, c = recurrence(k)
        columns.append((a * t + b) * columns[-1] - c * before)
        before = columns[-2]
    return np.stack(columns, axis=-1)


def to_monomial(basis: str, coefficients: Array) -> Array:
    """Coefficients of the same polynomial in 1, t, t^2, ..."""
    return coefficients @ _matrix(basis, len(coefficients) - 1)


def from_monomial(basis: str, coefficients: Array) -> Array:
    """Coefficients in `basis` of a polynomial given in 1, t, t^2, ..."""
    return np.linalg.solve(_matrix(basis, len(coefficients) - 1).T, coefficients)


def _matrix(basis: str, degree: int) -> Array:
    """Row k holds the monomial coefficients of f_k."""
    recurrence = _recurrence(basis)
    rows = np.zeros((degree + 1, degree + 1))
    rows[0, 0] = 1.0
    for k in range(degree):
        a, b, c = recurrence(k)
        rows[k + 1] = b * rows[k] - (c * rows[k - 1] if k else 0.0)
        rows[k + 1, 1:] += a * rows[k, :-1]
    return rows


def _recurrence(basis: str) -> Callable[[int], tuple[float, float, float]]:
    if basis not in _RECURRENCES:
        raise UsageError(f"unknown basis {basis!r}", why=f"one of {', '.join(BASES)}", fix='basis="chebyshev_t"')
    return _RECURRENCES[basis]
