"""Where the denominator search starts: linearised fits (Sanathanan-Koerner) and fixed shapes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from actswap.fit.points import Array
from actswap.fit.varpro import Problem

Mask = NDArray[np.bool_]

# Fixed denominators, in units where every feature peaks at 1 on the data. Together with the
# linearised fits below they were chosen greedily from some hundred candidates on random sites (16
# targets, five distributions): what one of them misses another one finds.
_SHAPES: dict[str, tuple[tuple[float, ...], ...]] = {
    "A": ((0, 10), (0, 0, 0.3), (30, 0, 0, 30)),
    "B": ((0, 30, 0, 7.5), (0, 3, 0, 0.75), (0, 1, 0, 0.25), (0, 1, -1), (0, 0.3)),
    "unsafe": ((0, 30, 0, 7.5), (0, 1, 0, 0.25), (0, 10), (0.3, 0.3)),
}


def starts(problem: Problem, x: Array, kinks: tuple[float, float]) -> tuple[Array, Mask]:
    """All starts for one problem, the same for the same problem.

    Args:
        problem: the data, features scaled to a largest absolute value of 1.
        x: (N,) the inputs.
        kinks: where the target bends most, besides 0.

    Returns:
        (S, n) denominators, and (S, n) which entries may move at first. In form B, Q has no kink at 0
        if b_1 = 0; a smooth target wants exactly that, and a search over all entries gets there only slowly.
    """
    n = problem.features.shape[1]
    everywhere = np.ones(len(x))
    if problem.form == "B":
        # The sign of the inner sum: smooth, kinked at 0, and with further kinks where the target has its own.
        zero, first, second = (np.where(x < z, -1.0, 1.0) for z in (0.0, *kinks))
        signs = np.stack([everywhere, first, everywhere, zero, first, zero * first, zero * first * second])
        smooth = 2
    else:
        signs, smooth = everywhere[None], 0
    fixed = np.array([_shape(shape, n) for shape in _SHAPES[problem.form]])
    free = np.ones((len(signs) + len(fixed), n), dtype=bool)
    free[:smooth, 0] = n == 1
    return np.concatenate([sanathanan_koerner(problem, signs, free[: len(signs)]), fixed]), free


def bends(y: Array, x: Array) -> tuple[float, float]:
    """The two places, apart from 0 and from each other, where a function on an even grid bends most."""
    bend = np.abs(np.diff(y, 2))
    inner = x[1:-1]
    near = 0.02 * (x[-1] - x[0])
    bend = np.where(np.abs(inner) < near, 0.0, bend)
    first = float(inner[bend.argmax()])
    bend = np.where(np.abs(inner - first) < near, 0.0, bend)
    return first, float(inner[bend.argmax()])


def sanathanan_koerner(problem: Problem, signs: Array, free: Mask, rounds: int = 3) -> Array:
    """Fit P - y Q = 0 with the weights of the last Q (Sanathanan & Koerner 1963), the numerator eliminated.

    Args:
        problem: the data.
        signs: (S, N) of -1 and 1: for form B the sign that the inner sum is supposed to have at each point,
            which makes the problem linear. One row of ones for the other forms.
        free: (S, n) entries that may differ from zero.
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
        norm = np.sqrt(np.einsum("sii->si", matrix)) + 1e-100
        # Normalised columns, and a ridge at the rounding level of the normal equations.
        matrix = matrix / (norm[:, :, None] * norm[:, None, :])
        matrix = np.where(free[:, :, None] & free[:, None, :], matrix, 0.0) + 1e-11 * np.eye(n)
        right = np.where(free, right / norm, 0.0)
        solve = _non_negative if problem.form == "A" else np.linalg.solve
        b = solve(matrix, right[:, :, None])[:, :, 0] / norm
        previous = np.maximum(np.abs(problem.denominator(b)), 1e-3)
    return b


def _non_negative(matrix: Array, right: Array) -> Array:
    """Minimise x'Mx/2 - r'x over x >= 0 for each (M, r); the clipped solution if NNLS gives up."""
    rows = [_non_negative_one(m, r) for m, r in zip(matrix, right[:, :, 0], strict=True)]
    return np.stack(rows)[:, :, None]


def _non_negative_one(matrix: Array, right: Array) -> Array:
    try:
        lower = np.linalg.cholesky(matrix)
        found: Array = nnls(lower.T, np.linalg.solve(lower, right), maxiter=30 * len(right))[0]
    except (RuntimeError, np.linalg.LinAlgError):
        found = np.maximum(np.linalg.lstsq(matrix, right, rcond=1e-9)[0], 0.0)
    return found


def _shape(shape: tuple[float, ...], n: int) -> Array:
    """A shape for n entries: cut or padded; one that would be all zero keeps its last entries instead."""
    kept = shape[:n] if any(shape[:n]) else shape[-n:]
    return np.append(kept, np.zeros(n - len(kept)))
