"""Separable least squares: the gradient of the projected cost, and the march to a known rational function."""

from __future__ import annotations

import numpy as np
import pytest

from actswap.fit.basis import vander
from actswap.fit.varpro import Problem, march, normal_equations

X = np.linspace(-2.0, 2.0, 101)
TRUE = np.array([0.3, 0.8])


def problem(form: str, y: np.ndarray | None = None) -> Problem:
    table = vander("monomial", X, 2)[:, 1:]
    features = np.abs(table) if form == "A" else table
    basis = vander("monomial", X, 3)
    inner = features @ TRUE
    q = 1.0 + (np.abs(inner) if form == "B" else inner)
    exact = basis @ np.array([0.5, 1.0, -0.2, 0.1]) / q
    return Problem(exact if y is None else y, np.full(101, 101**-0.5), basis, features, form)


@pytest.mark.parametrize("form", ["A", "B", "unsafe"])
def test_the_gradient_is_that_of_the_cost(form: str) -> None:
    p = problem(form, np.tanh(X))
    b, h = np.array([0.4, 0.6]), 1e-6
    _, gradient, matrix = normal_equations(p, b[None])
    for k in range(2):
        step = h * np.eye(2)[k]
        ahead, behind = (normal_equations(p, (b + sign * step)[None])[0][0] for sign in (1, -1))
        # A central difference is right to h^2 and to eps / h of the cost, which is below 1 here.
        assert gradient[0, k] == pytest.approx((ahead - behind) / (2 * h), abs=1e-9)
    assert np.array_equal(matrix, matrix.transpose(0, 2, 1)) and (np.linalg.eigvalsh(matrix[0]) > 0).all()


@pytest.mark.parametrize("form", ["A", "B", "unsafe"])
def test_a_rational_function_is_found_again(form: str) -> None:
    p = problem(form)
    b, cost, converged, used = march(p, np.array([[0.1, 0.1], [1.0, 1.0]]), 100, 1e-12)
    best = int(cost.argmin())
    assert converged[best] and used <= 100 and cost[best] < 1e-20
    assert b[best] == pytest.approx(TRUE, abs=1e-6)
    assert p.numerator(b[best]) == pytest.approx([0.5, 1.0, -0.2, 0.1], abs=1e-6)


def test_form_a_stays_non_negative_and_fixed_entries_stay() -> None:
    p = problem("A", np.tanh(X))
    b = march(p, np.array([[0.5, 0.5]]), 30, 1e-8)[0]
    assert (b >= 0).all()
    free = np.array([[False, True]])
    moved = march(problem("B", np.tanh(X)), np.array([[0.0, 0.5]]), 30, 1e-8, free)[0]
    assert moved[0, 0] == 0.0 and moved[0, 1] != 0.5


def test_an_unsafe_denominator_with_a_zero_costs_infinitely_much() -> None:
    cost = normal_equations(problem("unsafe", np.tanh(X)), np.array([[0.0, -1.0], [0.0, 1.0]]))[0]
    assert np.isinf(cost[0]) and np.isfinite(cost[1])
