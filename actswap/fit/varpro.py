"""Separable least squares for P/Q: the numerator is eliminated, only the denominator is searched.

For fixed denominator coefficients b the best numerator is a linear least-squares solution, so the search runs
over b alone (variable projection, Golub & Pereyra 1973, with Kaufman's 1975 Jacobian), by
Levenberg-Marquardt. All starts march together as one batch: arrays carry a leading axis S.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
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
        infinite where an unsafe denominator is not positive.
    """
    inner = b @ problem.features.T
    denominator = 1.0 + (np.abs(inner) if problem.form == "B" else inner)
    bad = denominator.min(axis=1) < FLOOR
    if bad.any():
        denominator[bad] = 1.0
    inverse = 1.0 / denominator
    target = problem.root_w * problem.y
    q = np.linalg.qr((problem.root_w * inverse)[:, :, None] * problem.basis)[0]
    fitted = (q @ (target @ q)[:, :, None])[:, :, 0]
    residual = target - fitted
    slope = fitted * inverse  # d(fitted)/dQ = -P/Q^2 at fixed numerator
    if problem.form == "B":
        slope = np.where(inner < 0.0, -slope, slope)
    jacobian = slope[:, :, None] * problem.features
    jacobian -= q @ (q.transpose(0, 2, 1) @ jacobian)
    transposed = jacobian.transpose(0, 2, 1)
    cost = 0.5 * np.einsum("sn,sn->s", residual, residual)
    gradient = (transposed @ residual[:, :, None])[:, :, 0]
    cost[bad] = np.inf
    return cost, gradient, transposed @ jacobian


def march(
    problem: Problem, b: Array, iterations: int, tolerance: float, free: NDArray[np.bool_] | None = None
) -> tuple[Array, Array, Array, int]:
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
    b = b.copy()
    cost, gradient, matrix = normal_equations(problem, b)
    damping = np.full(len(b), 1e-3)
    growth = np.full(len(b), 2.0)
    converged = ~np.isfinite(cost)
    floor = 1e-32 * float(np.sum((problem.root_w * problem.y) ** 2))
    eye = np.eye(b.shape[1])
    used = 0
    for used in range(1, iterations + 1):  # noqa: B007
        live = np.flatnonzero(~converged)
        if not live.size:
            break
        g, h, start = gradient[live], matrix[live], b[live]
        diagonal = np.einsum("sii->si", h)
        scale = np.sqrt(np.maximum(diagonal, 1e-30 * diagonal.max(axis=1, keepdims=True) + 1e-300))
        # In units of the column norms the matrix has a unit diagonal: Marquardt's scaling.
        scaled = h / (scale[:, :, None] * scale[:, None, :])
        right = g / scale
        if bounded or free is not None:
            fixed = (start <= 0.0) & (g > 0.0) if bounded else np.zeros(g.shape, dtype=bool)
            if free is not None:
                fixed |= ~free[live]
            scaled = np.where(fixed[:, :, None] | fixed[:, None, :], 0.0, scaled)
            right = np.where(fixed, 0.0, right)
        step = -np.linalg.solve(scaled + (damping[live, None, None] + 1e-14) * eye, right[:, :, None])[
            :, :, 0
        ]
        trial = start + step / scale
        if bounded:
            trial = np.maximum(trial, 0.0)
        moved = (trial - start) * scale
        expected = -np.einsum("si,si->s", moved, right) - 0.5 * np.einsum(
            "si,sij,sj->s", moved, scaled, moved
        )
        new_cost, new_gradient, new_matrix = normal_equations(problem, trial)
        gain = cost[live] - new_cost
        better = gain > 0.0
        ratio = np.where(better, gain / np.maximum(expected, 1e-300), 0.0)
        taken = live[better]
        b[taken], cost[taken] = trial[better], new_cost[better]
        gradient[taken], matrix[taken] = new_gradient[better], new_matrix[better]
        shrink = np.maximum(1.0 / 3.0, 1.0 - (2.0 * np.minimum(ratio, 1.0) - 1.0) ** 3)
        damping[live] = np.where(
            better, np.maximum(damping[live] * shrink, 1e-12), damping[live] * growth[live]
        )
        growth[live] = np.where(better, 2.0, 2.0 * growth[live])
        small = expected <= tolerance * cost[live]
        converged[live] = (
            (small & (gain <= tolerance * cost[live])) | (cost[live] <= floor) | (damping[live] > 1e10)
        )
    return b, cost, converged, used
