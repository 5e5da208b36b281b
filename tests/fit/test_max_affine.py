"""The maximum of straight lines: exact for polygons, as good as can be for smooth convex functions."""

from __future__ import annotations

import numpy as np
import pytest

from actswap.errors import UsageError
from actswap.fit.max_affine import fit_max_affine

X = np.linspace(-3.0, 3.0, 601)


@pytest.mark.parametrize("slope", [0.0, 0.1, -0.5, 0.99])
def test_two_lines_meet_a_leaky_relu_exactly(slope: float) -> None:
    fit = fit_max_affine(lambda x: np.maximum(x, slope * x), X)
    assert fit.max_error < 1e-12 and fit.slopes == pytest.approx((slope, 1.0)) and fit.offsets == pytest.approx((0, 0))


def test_three_lines_meet_a_polygon_with_corners_elsewhere() -> None:
    def polygon(x: np.ndarray) -> np.ndarray:
        return np.maximum.reduce([-x - 1.0, 0.25 * x, 2.0 * x - 3.0])

    fit = fit_max_affine(polygon, X, lines=3)
    # Corners are searched down to 1e-7 of the range; the error is at most that times the jump of slope.
    assert fit.max_error < 1e-5 and fit.slopes == pytest.approx((-1.0, 0.25, 2.0), abs=1e-5)


def test_a_parabola_costs_what_theory_says() -> None:
    """K lines with even corners leave an error of (h/4)^2 / 2 in the maximum norm for x^2, h the length of a piece.

    Least squares is at most a factor of two above it in the largest error.
    """
    for lines in (2, 3, 4):
        fit = fit_max_affine(np.square, X, lines=lines)
        best = (6.0 / lines / 2) ** 2 / 2
        assert best * 0.99 <= fit.max_error <= 2 * best and fit.rms_error < fit.max_error
        assert list(fit.slopes) == sorted(fit.slopes)


def test_what_is_not_convex_has_a_large_error_that_is_told() -> None:
    fit = fit_max_affine(np.tanh, X)
    found = np.abs(fit.evaluate(X) - np.tanh(X)).max()
    assert fit.max_error == pytest.approx(found, rel=1e-3) and fit.max_error > 0.1


def test_no_line_is_refused() -> None:
    with pytest.raises(UsageError, match="lines=0"):
        fit_max_affine(np.abs, X, lines=0)
