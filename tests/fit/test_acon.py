"""ACON and max-affine fits: exact where they can be, known bounds, refusals."""

from itertools import pairwise

import numpy as np
import pytest
from fit_functions import elu, gelu, relu, silu, softplus
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit

from actswap.errors import StartError, UsageError
from actswap.fit.acon import MAX_GAP, fit_acon
from actswap.fit.histogram import Histogram
from actswap.fit.max_affine import fit_max_affine

GRID = np.linspace(-5.0, 5.0, 1001)


def test_silu_is_an_acon():
    fit = fit_acon(silu, GRID)
    assert (fit.p1, fit.p2, fit.beta) == pytest.approx((1.0, 0.0, 1.0), abs=1e-9)
    assert fit.max_error < 1e-12 and fit.converged


@settings(max_examples=20)
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.3, 5.0))
def test_any_acon_is_recovered_as_a_function(p1, p2, beta):
    def f(x):
        d = p1 - p2
        return d * x * expit(beta * d * x) + p2 * x

    fit = fit_acon(f, GRID)
    assert fit.max_error < 1e-6 * (1.0 + abs(p1) + abs(p2))


def test_gelu_under_the_normal_distribution():
    x = np.linspace(-6, 6, 2001)
    fit = fit_acon(gelu, x, np.exp(-0.5 * x**2))
    assert fit.rms_error == pytest.approx(3.4e-3, rel=0.03)  # known: 3.4e-3 at beta 1.568
    assert fit.beta == pytest.approx(1.568, rel=0.03)


def test_gap_to_the_maximum():
    best = minimize_scalar(lambda u: -u * expit(-u), bounds=(0, 5), method="bounded", options={"xatol": 1e-12})
    assert pytest.approx(-best.fun, rel=1e-12) == MAX_GAP
    x = np.linspace(-2, 2, 400001)
    beta = MAX_GAP / 1e-2
    gap = np.abs(1.2 * x * expit(beta * 1.2 * x) - 0.2 * x - np.maximum(x, -0.2 * x)).max()
    assert 0.99e-2 < gap <= 1e-2 * (1 + 1e-9)


def test_functions_with_a_value_at_zero_are_refused():
    for f in (softplus, expit, lambda x: np.clip(x + 3, 0, 6) / 6):
        with pytest.raises(StartError, match="no ACON"):
            fit_acon(f, GRID)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.25, -0.1])
def test_two_lines_are_exact(slope):
    fit = fit_max_affine(lambda x: np.where(x > 0, x, slope * x), GRID)
    assert fit.max_error < 1e-13
    np.testing.assert_allclose(fit.slopes, [slope, 1.0], atol=1e-13)
    np.testing.assert_allclose(fit.offsets, 0.0, atol=1e-13)


def test_lines_of_a_convex_function():
    errors = [fit_max_affine(elu, GRID, lines=k).rms_error for k in (1, 2, 3, 4)]
    assert all(a > b for a, b in pairwise(errors))
    fit = fit_max_affine(elu, Histogram.uniform(-5, 5).samples()[0], lines=3)
    assert np.all(np.diff(fit.slopes) >= 0.0)
    # the best uniform polygon of three lines is off by 0.035, least squares by at most thrice that
    assert fit.max_error < 3 * 0.0351


def test_bad_arguments():
    with pytest.raises(UsageError, match="at least one line"):
        fit_max_affine(relu, GRID, lines=0)
