"""Minimax refinement: the largest error falls, and is attained many times with alternating sign."""

from __future__ import annotations

import numpy as np
import pytest

from actswap.fit.minimax import refine
from actswap.fit.search import Frame, search


@pytest.mark.parametrize("form", ["A", "B", "unsafe"])
def test_the_largest_error_falls_below_that_of_least_squares(form: str) -> None:
    x = np.linspace(-3.0, 3.0, 800)
    frame = Frame((3, 2), form, "monomial", 3.0, -3.0, 3.0)
    p, starts, _, _ = search(frame, np.tanh, x, np.full(800, 1 / 800), (-1.0, 1.0))

    def error(b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return p.basis @ c / p.denominator(b[None])[0] - p.y

    before = min(np.abs(error(b, p.numerator(b))).max() for b in starts)
    b, c, settled, _ = refine(p, starts)
    after = error(b, c)
    assert np.abs(after).max() <= before and settled
    if form == "unsafe":
        # Chebyshev: a best approximation of degrees (3, 2), odd like tanh, touches its largest error
        # at least 3 + 2 + 2 times with alternating sign.
        peaks = after[np.abs(after) >= 0.98 * np.abs(after).max()]
        assert np.abs(np.diff(np.sign(peaks))).sum() / 2 >= 5
