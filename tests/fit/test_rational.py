"""Padé fits against theory: known rationals come back, known limits are met, the same bits every time."""

import numpy as np
import pytest
from fit_functions import elu, gelu, hardswish, relu, silu, softplus
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from actswap.errors import UsageError
from actswap.fit.basis import BASES, vander
from actswap.fit.histogram import Histogram
from actswap.fit.rational import PadeFit, fit_pade
from actswap.fit.search import Frame
from actswap.fit.varpro import normal_equations

GRID = np.linspace(-3.0, 3.0, 601)


def ratio(numerator, denominator, form):
    def f(x):
        powers = np.stack([x**j for j in range(1, len(denominator) + 1)], axis=-1)
        inner = (np.abs(powers) if form == "A" else powers) @ np.array(denominator)
        return np.polyval(numerator[::-1], x) / (1.0 + (np.abs(inner) if form == "B" else inner))

    return f


@pytest.mark.parametrize(
    ("form", "denominator"),
    [
        ("A", (0.3, 0.0, 0.5, 0.2)),
        ("B", (0.4, -0.7, 0.1, 0.3)),
        ("B", (0.0, 0.5, 0.0, 0.1)),
        ("unsafe", (0.2, 0.5, 0.05, 0.1)),
    ],
)
def test_a_rational_function_is_recovered(form, denominator):
    numerator = (0.2, 0.5, -0.3, 0.1, 0.05, 0.02)
    fit = fit_pade(ratio(numerator, denominator, form), GRID, form=form, scale=1.0)
    # zero residual: what is left is rounding times the condition of the fit (below 1e6 here)
    assert fit.max_error < 1e-9 and fit.converged
    np.testing.assert_allclose(np.abs(fit.denominator), np.abs(denominator), atol=1e-5)
    np.testing.assert_allclose(fit.numerator, numerator, atol=1e-5)


# Padé approximants at 0, exact fractions; b is even and positive, so one set serves all forms.
PADE_ROWS = {
    "tanh": ((0, 1, 0, 1 / 9, 0, 1 / 945), (0, 4 / 9, 0, 1 / 63), np.tanh),
    "sigmoid": ((1 / 2, 1 / 4, 1 / 18, 1 / 144, 1 / 2016, 1 / 60480), (0, 1 / 9, 0, 1 / 1008), expit),
    "silu": ((0, 1 / 2, 1 / 4, 3 / 56, 1 / 168, 1 / 3360), (0, 3 / 28, 0, 1 / 1680), silu),
}


@pytest.mark.parametrize("name", PADE_ROWS)
@pytest.mark.parametrize("form", ["A", "B"])
def test_near_zero_the_fit_is_the_pade_approximant(name, form):
    numerator, denominator, f = PADE_ROWS[name]
    near = np.linspace(-0.7, 0.7, 401)
    known = np.abs(ratio(numerator, denominator, form)(near) - f(near)).max()
    fit = fit_pade(f, near, form=form, scale=1.0)
    # least squares beats the Padé approximant, which is best at 0 only, and its coefficients tend to it
    assert fit.rms_error <= known
    np.testing.assert_allclose(fit.numerator[:3], numerator[:3], atol=0.02)
    np.testing.assert_allclose(np.abs(fit.denominator[1]), denominator[1], atol=0.02)


@pytest.mark.parametrize("form", ["A", "B", "unsafe"])
def test_hardswish_is_a_quadratic_on_its_middle(form):
    fit = fit_pade(hardswish, GRID, form=form)
    assert fit.max_error < 1e-13
    assert (fit.slope_lo, fit.slope_hi) == (0.0, 1.0)
    far = np.array([-1e4, -30.0, -3.1, 3.1, 30.0, 1e4])
    np.testing.assert_allclose(fit.evaluate(far), hardswish(far), atol=1e-9)


# Best uniform errors of |x| on [-1, 1] by type (2k, 2k); relu on [-L, L] in type (2k+1, 2k): L/2 times that.
ABS_ERRORS = {(3, 2): 4.3689e-2, (5, 4): 8.50148e-3, (7, 6): 2.28211e-3}


@pytest.mark.parametrize("degrees", ABS_ERRORS)
@pytest.mark.parametrize(("form", "half"), [("A", 3.0), ("B", 10.0)])
def test_minimax_relu_meets_the_theory(degrees, form, half):
    fit = fit_pade(relu, np.linspace(-half, half, 601), degrees=degrees, form=form, minimax=True)
    theory = 0.5 * half * ABS_ERRORS[degrees]
    dense = np.linspace(-half, half, 20001)
    found = np.abs(fit.rational(dense) - relu(dense)).max()
    # a grid of 2001 points misses a little of the maximum near the corner at 0, more so at higher degree
    assert 0.97 * theory <= found <= 1.10 * theory
    assert found < 0.6 * fit_pade(relu, dense[::20], degrees=degrees, form=form).max_error


def test_minimax_error_equioscillates():
    fit = fit_pade(np.exp, np.linspace(-1, 1, 401), degrees=(3, 2), form="unsafe", minimax=True)
    dense = np.linspace(-1, 1, 4001)
    error = fit.rational(dense) - np.exp(dense)
    peaks = [0]
    for k in range(1, dense.size):  # the largest value of each run of one sign
        if np.sign(error[k]) != np.sign(error[peaks[-1]]):
            peaks.append(k)
        elif abs(error[k]) > abs(error[peaks[-1]]):
            peaks[-1] = k
    heights = np.abs(error[peaks])
    assert len(peaks) == 3 + 2 + 2  # Chebyshev's alternation for type (m, n) without defect
    assert heights.min() > 0.99 * heights.max()


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["A", "B", "unsafe"]))
def test_gradient_of_the_projected_cost_is_exact(seed, form):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-2, 2, 40))
    problem = Frame((3, 3), form, "monomial", 1.0, -2.0, 2.0).problem(gelu, x, rng.uniform(0.1, 1, 40))
    b = rng.uniform(0.1, 0.4, (1, 3))
    cost, gradient, _ = normal_equations(problem, b)
    step = 1e-6
    for k in range(3):
        shift = step * np.eye(3)[k]
        ahead, behind = (normal_equations(problem, b + sign * shift)[0][0] for sign in (1, -1))
        # central difference: truncation step^2, rounding 1e-16 / step
        assert (ahead - behind) / (2 * step) == pytest.approx(gradient[0, k], rel=1e-4, abs=1e-8)
    assert cost[0] >= 0.0


def test_poles_of_the_unsafe_form_are_reported():
    fit = PadeFit("unsafe", "monomial", (1.0,), (0.0, -1.0), 2.0, -1, 1, 0, 0, 0, 0, True, 1)  # Q = 1 - (x/2)^2
    np.testing.assert_allclose(fit.poles, [-2.0, 2.0], atol=1e-12)
    wide = fit_pade(gelu, GRID, form="unsafe")
    assert all(p < wide.lo or p > wide.hi for p in wide.poles)
    for pole in wide.poles:
        powers = (pole / wide.scale) ** np.arange(1, 5)
        assert abs(1.0 + powers @ np.array(wide.denominator)) < 1e-6 * np.abs(powers * wide.denominator).sum()
    assert fit_pade(gelu, GRID, form="A").poles == ()


@settings(max_examples=15)
@given(
    st.integers(0, 10_000),
    st.sampled_from([relu, gelu, silu, hardswish, elu, softplus, np.tanh]),
    st.sampled_from([(3, 2), (5, 4), (7, 6), (1, 1)]),
    st.sampled_from(["A", "B", "unsafe"]),
    st.sampled_from([0.1, 1.0, 10.0]),
)
def test_any_site_gives_a_finite_fit_that_says_what_it_is(seed, f, degrees, form, scale):
    rng = np.random.default_rng(seed)
    histogram = Histogram.of(scale * (rng.standard_t(3, 1500) + rng.normal()))
    x, w = histogram.samples()
    fit = fit_pade(f, x, w, degrees, form)
    again = fit_pade(f, x, w, degrees, form)
    assert fit == again  # the same bits
    assert fit.degrees == degrees and (fit.lo, fit.hi) == (histogram.lo, histogram.hi)
    error = fit.evaluate(x) - f(x)
    assert np.sqrt(w @ error**2) == pytest.approx(fit.rms_error, rel=1e-9, abs=1e-15)
    assert np.abs(error).max() <= fit.max_error * (1 + 1e-9)
    if form == "A":
        assert min(fit.denominator) >= 0.0
    # a constant numerator over Q = 1 is among the candidates, so the fit is at least as good as the mean
    assert fit.rms_error <= np.sqrt(w @ (f(x) - w @ f(x)) ** 2) * (1 + 1e-9)


def test_best_is_the_better_form():
    for f, better in ((np.tanh, "A"), (elu, "B")):
        fits = {form: fit_pade(f, GRID, form=form) for form in ("A", "B")}
        assert fit_pade(f, GRID) == fits[better]
        assert fits[better].rms_error == min(fit.rms_error for fit in fits.values())


@pytest.mark.parametrize("f", [relu, gelu, hardswish, np.tanh])
@pytest.mark.parametrize("form", ["A", "B"])
def test_tails_follow_the_function_once_its_asymptote_is_in_range(f, form):
    fit = fit_pade(f, np.linspace(-3, 3, 401), form=form, reach=1e-3)
    at_ends = np.abs(fit.evaluate([fit.lo, fit.hi]) - f(np.array([fit.lo, fit.hi]))).max()
    far = 10.0 * np.array([fit.lo, fit.hi])
    # beyond the range the error is that at the end, plus what was missing to the asymptote on both places
    assert np.abs(fit.evaluate(far) - f(far)).max() <= at_ends + 2e-3
    assert np.abs(fit.evaluate(far) - f(far)).max() <= 0.02


def test_slopes_without_an_asymptote_are_those_at_the_ends():
    fit = fit_pade(np.square, GRID)
    assert fit.slope_lo == pytest.approx(-6.0, abs=1e-2) and fit.slope_hi == pytest.approx(6.0, abs=1e-2)


@pytest.mark.parametrize("basis", BASES)
def test_every_basis_spans_the_same_numerators(basis):
    cubic = np.polynomial.Polynomial([0.3, -1.0, 0.5, 0.25])
    fit = fit_pade(lambda x: cubic(x), GRID, degrees=(3, 1), form="unsafe", basis=basis, scale=1.5)
    assert fit.max_error < 1e-12 and fit.basis == basis
    table = vander(basis, GRID / 1.5, 3)
    inner = 1.0 + fit.denominator[0] * table[:, 1]
    np.testing.assert_allclose((table @ np.array(fit.numerator)) / inner, cubic(GRID), atol=1e-12)


def test_degenerate_data():
    for x in ([0.0], [2.5] * 10, [-1.0, 1.0], np.linspace(1e-7, 2e-7, 50)):
        fit = fit_pade(silu, x)
        assert fit.lo < fit.hi and np.isfinite([*fit.numerator, *fit.denominator, fit.max_error]).all()
        assert fit.max_error < 1e-3
    assert fit_pade(lambda x: 0.0 * x, GRID).max_error == 0.0


def test_errors_say_what_to_do():
    with pytest.raises(UsageError, match="unknown form"):
        fit_pade(relu, GRID, form="C")
    with pytest.raises(UsageError, match="at least 1"):
        fit_pade(relu, GRID, degrees=(5, 0))
    with pytest.raises(UsageError, match="cannot fit"):
        fit_pade(relu, [np.nan])
    with pytest.raises(UsageError, match="not finite"):
        fit_pade(lambda x: np.full_like(x, np.inf), GRID)
    with pytest.raises(UsageError, match="basis"):
        fit_pade(relu, GRID, basis="bernstein")
    with pytest.raises(UsageError, match="weights"):
        fit_pade(relu, GRID, np.zeros(GRID.size))
