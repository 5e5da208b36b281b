"""The search for a denominator: coordinates that give the coefficients back, and the best of many starts."""

from __future__ import annotations

import numpy as np
import pytest

from actswap.fit.basis import BASES, vander
from actswap.fit.search import Frame, search


@pytest.mark.parametrize("basis", BASES)
def test_a_frame_gives_the_same_function_in_the_units_basis(basis: str) -> None:
    """What the search computes on its Chebyshev numerator and scaled features is what the coefficients compute."""
    frame = Frame((5, 4), "unsafe", basis, 2.0, -3.0, 5.0)
    x = np.linspace(-3.0, 5.0, 65)  # the grid on which features are scaled
    p = frame.problem(np.tanh, x, np.full(65, 1 / 65))
    b = 0.002 * np.arange(1.0, 5.0)  # so small that no basis gives Q a zero
    c = p.numerator(b)
    top, bottom = (np.array(part) for part in frame.coefficients(b, c))
    t = x / 2.0
    unit = vander(basis, t, 5) @ top / (1.0 + vander(basis, t, 4)[:, 1:] @ bottom)
    # Changes between bases of degree 5 amplify roundings by less than 1e4.
    np.testing.assert_allclose(unit, p.basis @ c / p.denominator(b[None])[0], rtol=1e-10, atol=1e-11)
    assert np.abs(p.features).max() <= 1.0 and len(frame.peaks) == 4


@pytest.mark.parametrize("form", ["A", "B", "unsafe"])
def test_the_best_comes_first_and_meets_the_target(form: str) -> None:
    x = np.linspace(-3.0, 3.0, 400)
    frame = Frame((5, 4), form, "monomial", 3.0, -3.0, 3.0)
    p, found, converged, used = search(frame, np.tanh, x, np.full(400, 1 / 400), (-1.0, 1.0))
    errors = [float(np.sqrt(np.mean((p.basis @ p.numerator(b) / p.denominator(b[None])[0] - p.y) ** 2))) for b in found]
    assert errors == sorted(errors) and len(found) == len(converged) <= 2 and used > 0
    # The (5, 4) approximant at 0 is within 4e-4 of tanh on [-3, 3], in every form.
    assert errors[0] < 4e-4
