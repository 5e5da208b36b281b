"""Orthogonal Padé units: the six bases against scipy, fits at least as good as known ones."""

import numpy as np
import pytest
from fit_functions import relu
from scipy import special

from actswap.errors import UsageError
from actswap.fit.basis import BASES, from_monomial, to_monomial, vander
from actswap.fit.orthogonal import ORTHOGONAL, fit_orthogonal

SCIPY = {
    "chebyshev_t": special.eval_chebyt,
    "chebyshev_u": special.eval_chebyu,
    "legendre": special.eval_legendre,
    "laguerre": special.eval_laguerre,
    "hermite_prob": special.eval_hermitenorm,
    "hermite_phys": special.eval_hermite,
}
GRID = np.linspace(-3.0, 3.0, 601)
# Least squares of relu on ±3, (5, 4), safe, as found with ten random starts for the project's reference.
RELU_RMS = {
    "chebyshev_t": 0.0382,
    "chebyshev_u": 0.0101,
    "legendre": 0.0122,
    "laguerre": 0.0154,
    "hermite_prob": 0.0209,
    "hermite_phys": 0.0148,
}


@pytest.mark.parametrize("basis", ORTHOGONAL)
def test_recurrences_agree_with_scipy(basis):
    x = np.linspace(-2.5, 2.5, 41)
    table = vander(basis, x, 8)
    for k in range(9):
        np.testing.assert_allclose(table[:, k], SCIPY[basis](k, x), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("basis", BASES)
def test_change_of_basis_there_and_back(basis):
    powers = np.array([0.3, -1.0, 0.5, 2.0, -0.1, 0.7])
    coefficients = from_monomial(basis, powers)
    np.testing.assert_allclose(to_monomial(basis, coefficients), powers, atol=1e-11)
    x = np.linspace(-1, 1, 11)
    np.testing.assert_allclose(vander(basis, x, 5) @ coefficients, np.polyval(powers[::-1], x), atol=1e-11)


@pytest.mark.parametrize("basis", ORTHOGONAL)
def test_safe_fits_are_no_worse_than_known_ones(basis):
    fit = fit_orthogonal(relu, GRID, basis=basis, scale=1.0)
    assert fit.rms_error <= 1.01 * RELU_RMS[basis]
    if basis != "laguerre":  # a half-line basis, whose roots lie all on one side
        assert fit_orthogonal(relu, GRID, basis=basis).rms_error < fit.rms_error
    table = vander(basis, GRID, 5)
    q = 1.0 + np.abs(table[:, 1:5]) @ np.abs(fit.denominator)
    np.testing.assert_allclose(fit.rational(GRID), (table @ np.array(fit.numerator)) / q, atol=1e-12)
    assert q.min() >= 1.0 and fit.poles == ()


def test_unsafe_fits_are_the_same_functions_in_every_basis():
    errors = [fit_orthogonal(relu, GRID, basis=basis, form="unsafe").rms_error for basis in ORTHOGONAL]
    # 1 + sum d_j f_j is every polynomial with an f_0 term, up to a factor: the optimum is the same
    np.testing.assert_allclose(errors, errors[0], rtol=2e-3)


def test_powers_are_no_orthogonal_basis():
    with pytest.raises(UsageError, match="unknown basis"):
        fit_orthogonal(relu, GRID, basis="monomial")
