"""Polynomial bases: their values against scipy's, and changes of basis that are each other's inverse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from actswap.errors import UsageError
from actswap.fit.basis import BASES, from_monomial, to_monomial, vander

KNOWN = {
    "monomial": lambda n, t: t**n,
    "chebyshev_t": special.eval_chebyt,
    "chebyshev_u": special.eval_chebyu,
    "legendre": special.eval_legendre,
    "laguerre": special.eval_laguerre,
    "hermite_prob": special.eval_hermitenorm,
    "hermite_phys": special.eval_hermite,
}


@pytest.mark.parametrize("basis", BASES)
def test_values_are_those_of_scipy(basis: str) -> None:
    t = np.linspace(-1.5, 1.5, 31)
    table = vander(basis, t, 7)
    assert table.shape == (31, 8)
    for n in range(8):
        # H_7 is at most 3,000 here, and the recurrence is stable: some tens of roundings of that.
        np.testing.assert_allclose(table[:, n], KNOWN[basis](n, t), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("basis", BASES)
def test_changes_of_basis_keep_the_polynomial(basis: str) -> None:
    t, c = np.linspace(-1.0, 1.0, 21), np.random.default_rng(0).normal(size=6)
    powers = to_monomial(basis, c)
    np.testing.assert_allclose(vander("monomial", t, 5) @ powers, vander(basis, t, 5) @ c, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(from_monomial(basis, powers), c, rtol=1e-10, atol=1e-10)


def test_an_unknown_basis_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="legendre"):
        vander("bessel", np.zeros(3), 2)
