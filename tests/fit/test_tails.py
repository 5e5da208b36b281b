"""Tails: slopes of asymptotes, and how far a range has to reach for them."""

import numpy as np
import pytest
from fit_functions import gelu, hardswish, relu, silu, softplus
from scipy.special import expit

from actswap.fit.tails import reach_asymptote, tail_slopes


@pytest.mark.parametrize(
    ("f", "slopes"),
    [
        (relu, (0.0, 1.0)),
        (silu, (0.0, 1.0)),
        (softplus, (0.0, 1.0)),
        (np.tanh, (0.0, 0.0)),
        (lambda x: np.where(x > 0, x, 0.01 * x), (0.01, 1.0)),
        (lambda x: np.arctan(x) ** 2 - x, (-1.0, -1.0)),
        (lambda x: x / (1 + np.abs(x)), (0.0, 0.0)),
    ],
)
def test_slopes_of_asymptotes(f, slopes):
    # the slope is a secant at 2^20: off by the curvature that is left there, below 2^-19 for arctan^2
    assert tail_slopes(f, -3.0, 3.0) == pytest.approx(slopes, abs=4e-6)


def test_slopes_of_piecewise_linear_functions_are_exact():
    assert tail_slopes(lambda x: np.where(x > 0, x, 0.01 * x), -0.3, 17.0) == (0.01, 1.0)


@pytest.mark.parametrize(
    ("f", "known"),
    [
        (relu, (-0.5, 0.5)),  # already there
        (hardswish, (-3.0, 3.0)),
        (np.tanh, (-3.8, 3.8)),  # 1 - tanh x = 2 e^-2x
        (expit, (-6.9, 6.9)),  # e^-x
    ],
)
def test_the_range_grows_until_the_asymptote_is_near(f, known):
    lo, hi = reach_asymptote(f, -0.5, 0.5, 1e-3)
    assert (lo, hi) == pytest.approx(known, abs=0.05)
    beyond = np.array([1.5 * lo, 3.0 * lo, 1.5 * hi, 3.0 * hi])
    line = np.where(beyond < 0, f(lo) + 0.0, f(hi) + tail_slopes(f, lo, hi)[1] * (beyond - hi))
    assert np.abs(f(beyond) - line).max() <= 2e-3 + 1e-12


def test_a_wide_range_and_a_slow_function_are_left_alone():
    assert reach_asymptote(gelu, -9.0, 8.0, 1e-3) == (-9.0, 8.0)
    assert reach_asymptote(lambda x: x / (1 + np.abs(x)), -2.0, 3.0, 1e-3) == (-2.0, 3.0)
    assert reach_asymptote(np.square, -1.0, 1.0, 1e-3) == (-1.0, 1.0)
