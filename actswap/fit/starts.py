"""Where the denominator search starts: linearised fits (Sanathanan-Koerner) and fixed shapes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from actswap.fit.varpro import Problem

Array = NDArray[np.float64]


def sanathanan_koerner(problem: Problem, signs: Array, rounds: int) -> Array:
    """Fit P - y Q = 0 with the weights of the last Q (Sanathanan & Koerner 1963), the numerator eliminated.

    Args:
        problem: the data.
        signs: (S, N) of -1 and 1: for form B the sign that the inner sum is supposed to have at each point, which
            makes the problem linear. One row of ones for the other forms.
        rounds: how often the weights are renewed.

    Returns:
        (S, n) denominators; non-negative for form A.
    """
    n = problem.features.shape[1]
    previous = np.ones_like(signs)
    b = np.zeros((len(signs), n))
    for _ in range(rounds):
        weight = problem.root_w / previous
        q = np.linalg.qr(weight[:, :, None] * problem.basis)[0]
        target = weight * problem.y
        columns = (target * signs)[:, :, None] * problem.features
        columns -= q @ (q.transpose(0, 2, 1) @ columns)
        rest = target - (q @ (q.transpose(0, 2, 1) @ target[:, :, None]))[:, :, 0]
        transposed = columns.transpose(0, 2, 1)
        matrix = transposed @ columns
        right = -(transposed @ rest[:, :, None])[:, :, 0]
        norm = np.sqrt(np.einsum("sii->si", matrix)) + 1e-300
        # Normalised columns, and a ridge at the rounding level of the normal equations.
        matrix = matrix / (norm[:, :, None] * norm[:, None, :]) + 1e-11 * np.eye(n)
        right = right / norm
        solve = _non_negative if problem.form == "A" else np.linalg.solve
        b = solve(matrix, right[:, :, None])[:, :, 0] / norm
        previous = np.maximum(np.abs(problem.denominator(b)), 1e-3)
    return b


def _non_negative(matrix: Array, right: Array) -> Array:
    """Minimise x'Mx/2 - r'x over x >= 0 for each (M, r); clipped solution where NNLS gives up."""
    found = np.empty_like(right)
    for k, (m, r) in enumerate(zip(matrix, right[:, :, 0], strict=True)):
        try:
            lower = np.linalg.cholesky(m)
            found[k, :, 0] = nnls(lower.T, np.linalg.solve(lower, r), maxiter=30 * len(r))[0]
        except (RuntimeError, np.linalg.LinAlgError):
            found[k, :, 0] = np.maximum(np.linalg.lstsq(m, r, rcond=1e-9)[0], 0.0)
    return found


# Fixed denominators, in units where every feature peaks at 1 on the data. Chosen greedily from 224 candidates so that on
# 880 random sites (16 targets, five distributions) the best of them is hardly ever far from the best of all.
_SHAPES: dict[str, tuple[tuple[float, ...], ...]] = {
    "A": ((0, 0, 3), (0, 0, 0, 100), (0, 0, 0.3)),
    "B": (
        (0, 30, 0, 7.5),
        (0, 1, 0, 0.25),
        (0, 3, -3),
        (30, 30, 15, 7.5),
        (0, 3, 3),
        (0, -0.3, 0, 0.15),
        (-0.3, -0.3),
        (0, -10, 0, 5),
    ),
    "unsafe": ((0, 30, 0, 7.5), (0, 1, 0, 0.25), (0, 10), (0.3, 0.3)),
}


def starts(problem: Problem, t: Array) -> Array:
    """All starts for one problem: (S, n), the same for the same problem.

    Args:
        problem: the data, features scaled to a largest absolute value of 1.
        t: (N,) the positions; only their signs are used.
    """
    n = problem.features.shape[1]
    signs = np.ones((1, len(t)))
    if problem.form == "B":
        signs = np.stack([signs[0], np.where(t < 0.0, -1.0, 1.0)])
    found = sanathanan_koerner(problem, signs, rounds=4)
    # A shape longer than n loses its tail; one that would be all zero then keeps its last entry.
    fixed = [
        np.resize(shape[-n:], n) if not any(shape[:n]) else _fill(shape, n) for shape in _SHAPES[problem.form]
    ]
    return np.concatenate([found, np.array(fixed)])


def _fill(shape: tuple[float, ...], n: int) -> Array:
    filled = np.zeros(n)
    filled[: min(n, len(shape))] = shape[:n]
    return filled
