"""Separable least squares for P/Q: the numerator is eliminated, only the denominator is searched.

For fixed denominator coefficients b the best numerator is a linear least-squares solution, so the search runs
over b alone (variable projection, Golub & Pereyra 1973, with Kaufman's 1975 Jacobian), by
Levenberg-Marquardt. All starts march together as one batch: arrays carry a leading axis S.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actswap.fit.points import Array

FLOOR = 1e-9  # smallest denominator that an unsafe form may have on the data


@dataclass(frozen=True)
class Problem:
    """Minimise sum w (y - P/Q)^2.

    Attributes:
        y: (N,) target values.
        root_w: (N,) square roots of the weights.
        basis: (N, k) numerator functions; P = basis @ c.
        features: (N, n) denominator functions f_j.
        form: `A`: Q = 1 + sum_j b_j f_j with f_j >= 0 and b_j >= 0;
            `B`: Q = 1 + |sum_j b_j f_j|; `unsafe`: Q = 1 + sum_j b_j f_j, kept positive on the data.
    """

    y: Array
    root_w: Array
    basis: Array
    features: Array
    form: str

    def denominator(self, b: Array) -> Array:
        """Q at every point: (S, n) -> (S, N)."""
        inner = b @ self.features.T
        return np.asarray(1.0 + (np.abs(inner) if self.form == "B" else inner))

    def numerator(self, b: Array) -> Array:
        """Best numerator coefficients for one b: (n,) -> (k,)."""
        weight = self.root_w / self.denominator(b[None])[0]
        q, r = np.linalg.qr(weight[:, None] * self.basis)
        diagonal = np.abs(np.diag(r))
        if diagonal.min() > 1e-13 * diagonal.max():
            return np.asarray(np.linalg.solve(r, q.T @ (self.root_w * self.y)))
        return np.asarray(np.linalg.lstsq(weight[:, None] * self.basis, self.root_w * self.y, rcond=None)[0])


def normal_equations(problem: Problem, b: Array) -> tuple[Array, Array, Array]:
    """Cost, gradient and Gauss-Newton matrix of the projected problem.

    Args:
        problem: the data.
        b: (S, n) denominators.

    Returns:
        cost (S,) = r.r / 2, its exact gradient (S, n), and J'J (S, n, n) with Kaufman's J. The cost is
        infinite if an unsafe denominator is not positive.
    """
    inner = b @ problem.features.T
    denominator = 1.0 + (np.abs(inner) if problem.form == "B" else inner)
    bad = denominator.min(axis=1) < FLOOR if problem.form == "unsafe" else None
    if bad is not None:
        denominator[bad] = 1.0
    target = problem.root_w * problem.y
    q = np.linalg.qr((problem.root_w / denominator)[:, :, None] * problem.basis)[0]
    transposed_q = q.transpose(0, 2, 1)
    fitted = (q @ (transposed_q @ target)[:, :, None])[:, :, 0]
    residual = target - fitted
    slope = fitted / denominator  # d(fitted)/dQ = -P/Q^2 at fixed numerator
    if problem.form == "B":
        slope = np.copysign(slope, slope * inner)
    jacobian = slope[:, :, None] * problem.features
    jacobian -= q @ (transposed_q @ jacobian)
    transposed = jacobian.transpose(0, 2, 1)
    cost = 0.5 * np.square(residual).sum(axis=1)
    if bad is not None:
        cost[bad] = np.inf
    return cost, (transposed @ residual[:, :, None])[:, :, 0], transposed @ jacobian


def march(
    problem: Problem, b: Array, iterations: int, tolerance: float, free: NDArray[np.bool_] | None = None
) -> tuple[Array, Array, NDArray[np.bool_], int]:
    """Levenberg-Marquardt from every row of b at once.

    Args:
        problem: the data.
        b: (S, n) starts; form A needs b >= 0 and keeps it by projection.
        iterations: upper limit.
        tolerance: a row has converged when a step lowers its cost by less than this share.
        free: (S, n) which entries may move; all of them if not given.

    Returns:
        b (S, n), cost (S,), converged (S,), iterations used.
    """
    bounded = problem.form == "A"
    eye = np.eye(b.shape[1])
    floor = 1e-32 * float(np.square(problem.root_w * problem.y).sum())
    cost, gradient, matrix = normal_equations(problem, b)
    found, lowest, converged = b.copy(), cost.copy(), np.zeros(len(b), dtype=bool)
    rows = np.flatnonzero(np.isfinite(cost))  # the rows still under way
    b, cost, gradient, matrix = b[rows], cost[rows], gradient[rows], matrix[rows]
    free = free[rows] if free is not None else None
    damping, growth = np.full(len(rows), 1e-3), np.full(len(rows), 2.0)
    used = 0
    while rows.size and used < iterations:
        used += 1
        diagonal = np.einsum("sii->si", matrix)
        scale = np.sqrt(np.maximum(diagonal, 1e-30 * diagonal.max(axis=1, keepdims=True) + 1e-200))
        # In units of the column norms the matrix has a unit diagonal: Marquardt's scaling.
        scaled, right = matrix / (scale[:, :, None] * scale[:, None, :]), gradient / scale
        if bounded or free is not None:
            moving = (b > 0.0) | (gradient < 0.0) if bounded else np.ones(b.shape, dtype=bool)
            if free is not None:
                moving &= free
            scaled = np.where(moving[:, :, None] & moving[:, None, :], scaled, 0.0)
            right = np.where(moving, right, 0.0)
        step = np.linalg.solve(scaled + (damping + 1e-14)[:, None, None] * eye, right[:, :, None])[:, :, 0]
        trial = b - step / scale
        if bounded:
            trial = np.maximum(trial, 0.0)
        moved = (trial - b) * scale
        expected = -(moved * (right + 0.5 * (scaled @ moved[:, :, None])[:, :, 0])).sum(axis=1)
        new_cost, new_gradient, new_matrix = normal_equations(problem, trial)
        gain = cost - new_cost
        better = gain > 0.0
        small = tolerance * cost
        b = np.where(better[:, None], trial, b)
        cost = np.where(better, new_cost, cost)
        gradient = np.where(better[:, None], new_gradient, gradient)
        matrix = np.where(better[:, None, None], new_matrix, matrix)
        # Nielsen's rule: relax as far as the quadratic model was right, tighten faster after each refusal.
        ratio = np.clip(gain / np.maximum(expected, 1e-300), 0.0, 1.0)
        shrink = np.maximum(1.0 / 3.0, 1.0 - (2.0 * ratio - 1.0) ** 3)
        damping = np.where(better, np.maximum(damping * shrink, 1e-12), damping * growth)
        growth = np.where(better, 2.0, 2.0 * growth)
        done = ((expected <= small) & (gain <= small)) | (cost <= floor) | (damping > 1e10)
        if done.any():
            found[rows[done]], lowest[rows[done]], converged[rows[done]] = b[done], cost[done], True
            rest = ~done
            rows, b, cost, gradient, matrix = rows[rest], b[rest], cost[rest], gradient[rest], matrix[rest]
            damping, growth = damping[rest], growth[rest]
            free = free[rest] if free is not None else None
    found[rows], lowest[rows] = b, cost
    return found, lowest, converged, used
