"""Starts of the denominator search: linearised fits, which are exact for rational functions, and fixed shapes."""

from __future__ import annotations

import numpy as np
import pytest

from actswap.fit.basis import vander
from actswap.fit.starts import bends, sanathanan_koerner, starts
from actswap.fit.varpro import Problem

X = np.linspace(-2.0, 2.0, 201)


def problem(form: str, b: np.ndarray) -> Problem:
    table = vander("monomial", X, len(b))[:, 1:]
    features = np.abs(table) if form == "A" else table
    basis = vander("monomial", X, 3)
    inner = features @ b
    y = basis @ np.array([0.2, 1.0, 0.3, -0.1]) / (1.0 + (np.abs(inner) if form == "B" else inner))
    return Problem(y, np.full(201, 201**-0.5), basis, features, form)


@pytest.mark.parametrize(("form", "b"), [("A", [0.5, 0.25]), ("unsafe", [0.1, 0.3])])
def test_a_rational_function_is_its_own_linearised_fit(form: str, b: list[float]) -> None:
    """P - y Q = 0 holds exactly then, whatever the weights; the ridge of 1e-11 moves it by less than 1e-6."""
    found = sanathanan_koerner(problem(form, np.array(b)), np.ones((1, 201)), np.ones((1, 2), dtype=bool))
    assert found[0] == pytest.approx(b, abs=1e-6)


@pytest.mark.parametrize("form", ["A", "B", "unsafe"])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_starts_are_finite_of_any_degree_and_the_same_again(form: str, n: int) -> None:
    p = problem(form, np.full(n, 0.1))
    b, free = starts(p, X, (-1.0, 1.0))
    assert b.shape == free.shape and b.shape[1] == n and np.isfinite(b).all()
    assert (b[~free] == 0).all() and (form != "A" or (b >= 0).all())
    assert np.array_equal(b, starts(p, X, (-1.0, 1.0))[0])


def test_bends_are_found_apart_from_zero_and_from_each_other() -> None:
    """A hard sigmoid bends at -3 and 3; the kink of |x| at 0 is left out, since it is always tried."""
    x = np.linspace(-6.0, 6.0, 2001)
    y = np.clip(x / 6 + 0.5, 0, 1) + 5 * np.abs(x)
    assert sorted(bends(y, x)) == pytest.approx([-3.0, 3.0], abs=0.01)
