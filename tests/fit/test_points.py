"""Weighted points: sorted, of weight 1, never a single dot; what cannot be fitted is refused in words."""

from __future__ import annotations

import numpy as np
import pytest

from actswap.errors import UsageError
from actswap.fit.points import mixed, sampled, weighted_points


def test_points_are_sorted_with_their_weights() -> None:
    x = np.linspace(3.0, -3.0, 100)
    points, weights = weighted_points(x, np.arange(100.0))
    assert np.array_equal(points, x[::-1]) and weights.sum() == pytest.approx(1.0)
    assert np.array_equal(weights, np.arange(100.0)[::-1] / 4950.0)


@pytest.mark.parametrize("value", [0.0, 2.5, -1e30, 1e-30])
def test_a_dot_gets_a_neighbourhood_that_counts_a_little(value: float) -> None:
    points, weights = weighted_points(np.full(10, value), None)
    size = abs(value) or 1.0
    # The weight 0.98 on the ten copies, and 0.02 within 5e-4 of the value.
    assert weights[points == value].sum() >= 0.98 - 1e-12 and weights.sum() == pytest.approx(1.0)
    assert points[-1] - points[0] == pytest.approx(1e-3 * size)


def test_added_points_carry_their_share() -> None:
    x, w = mixed(np.array([0.0, 1.0]), np.array([0.25, 0.75]), np.array([0.5, 2.0]), 0.1)
    assert x.tolist() == [0.0, 0.5, 1.0, 2.0] and w == pytest.approx([0.225, 0.05, 0.675, 0.05])


@pytest.mark.parametrize(
    ("x", "w"),
    [([], None), ([1.0, np.nan], None), ([1.0, 2.0], [1.0]), ([1.0, 2.0], [1.0, -1.0]), ([1.0, 2.0], [0.0, 0.0])],
)
def test_what_is_no_set_of_points_is_refused(x: list[float], w: list[float] | None) -> None:
    with pytest.raises(UsageError):
        weighted_points(x, w)


def test_a_function_must_be_finite_and_keep_the_shape() -> None:
    x = np.array([0.0, 1.0])
    for f in (np.log, lambda v: v[:1]):
        with pytest.raises(UsageError, match="not finite"), np.errstate(divide="ignore"):
            sampled(f, x)
