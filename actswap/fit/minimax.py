"""Uniform (minimax) refinement of a least-squares fit.

First Lawson's reweighting (points with large errors gain weight), then sequential linear programming: P/Q is
linear in its numerator and is linearised in its denominator within a trust region (Osborne & Watson 1969).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from actswap.fit.points import Array
from actswap.fit.varpro import Problem, march

_LAWSON = 8  # rounds of reweighting
_PROGRAMS = 40  # linear programs, at most
_STRIDE = 10  # every so many points are constraints, besides the extrema of the error


def refine(problem: Problem, starts: Array) -> tuple[Array, Array, bool, int]:
    """Make the largest error on the points of `problem` small.

    Args:
        problem: a dense grid with equal weights.
        starts: (S, n) denominators of good least-squares fits.

    Returns:
        denominator (n,), numerator (k,), whether the steps died out by themselves, how many programs
        were solved.
    """
    runs = [_programs(problem, *_lawson(problem, b)) for b in starts]
    return min(runs, key=lambda run: float(np.abs(_error(problem, run[0], run[1])).max()))


def _lawson(problem: Problem, b: Array) -> tuple[Array, Array]:
    """The best of a few reweighted least-squares fits: denominator and numerator."""
    weighted = problem
    best, best_c = b, problem.numerator(b)
    for _ in range(_LAWSON):
        error = np.abs(_error(problem, b, weighted.numerator(b)))
        weight = weighted.root_w**2 * (error + 1e-3 * error.max() + 1e-300)
        weighted = replace(problem, root_w=np.sqrt(weight / weight.sum()))
        b = march(weighted, b[None], iterations=6, tolerance=1e-3)[0][0]
        c = weighted.numerator(b)
        if np.abs(_error(problem, b, c)).max() < np.abs(_error(problem, best, best_c)).max():
            best, best_c = b, c
    return best, best_c


def _programs(problem: Problem, b: Array, c: Array) -> tuple[Array, Array, bool, int]:
    k, n = len(c), len(b)
    error = _error(problem, b, c)
    largest = float(np.abs(error).max())
    smallest = 1e-13 * float(np.abs(problem.y).max())
    radius = 0.3
    for program in range(1, _PROGRAMS + 1):
        if largest <= smallest or radius < 1e-6:
            return b, c, True, program - 1
        rows = _constraints(error)
        features, basis = problem.features[rows], problem.basis[rows]
        inner = features @ b
        q = 1.0 + (np.abs(inner) if problem.form == "B" else inner)
        slope = -(basis @ c) / q**2
        if problem.form == "B":
            slope = np.where(inner < 0.0, -slope, slope)
        # Unknowns: the new numerator, the change of b in units of its trust region, and the bound h /
        # largest.
        unit = radius * (np.abs(b) + 0.02 * np.abs(b).max() + 1e-3)
        model = np.column_stack([basis / q[:, None], slope[:, None] * features * unit]) / largest
        goal = problem.y[rows] / largest
        ones = np.ones((len(rows), 1))
        low = np.maximum(-1.0, -b / unit) if problem.form == "A" else np.full(n, -1.0)
        answer = linprog(
            np.append(np.zeros(k + n), 1.0),
            A_ub=np.block([[model, -ones], [-model, -ones]]),
            b_ub=np.concatenate([goal, -goal]),
            bounds=[(None, None)] * k + list(zip(low, np.ones(n), strict=True)) + [(0.0, None)],
            method="highs",
        )
        if not answer.success:
            radius *= 0.25
            continue
        trial_b, trial_c = b + answer.x[k : k + n] * unit, answer.x[:k]
        if problem.form == "A":
            trial_b = np.maximum(trial_b, 0.0)
        trial = _error(problem, trial_b, trial_c)
        got = largest - float(np.abs(trial).max())
        expected = largest * (1.0 - float(answer.x[-1]))
        if expected <= 1e-5 * largest:
            return b, c, True, program
        if got > 0.0:
            b, c, error, largest = trial_b, trial_c, trial, largest - got
        if got < 0.1 * expected:
            radius *= 0.3
        elif got > 0.6 * expected:
            radius = min(2.0 * radius, 1.0)
    return b, c, False, _PROGRAMS


def _error(problem: Problem, b: Array, c: Array) -> Array:
    """P/Q - y; infinite where an unsafe denominator has a zero or changes sign."""
    q = problem.denominator(b[None])[0]
    return np.asarray((problem.basis @ c) / q - problem.y) if q.min() > 0.0 else np.full_like(q, np.inf)


def _constraints(error: Array) -> NDArray[np.intp]:
    """Local extrema of the error, and a sparse grid between them."""
    size = np.abs(error)
    chosen = np.zeros(len(error), dtype=bool)
    chosen[::_STRIDE] = chosen[-1] = True
    chosen[1:-1] |= (size[1:-1] >= size[:-2]) & (size[1:-1] >= size[2:])
    return np.flatnonzero(chosen)
