"""Agreement of outputs: relative to how each varies on all inputs, infinite if shapes or places of NaN differ."""

from __future__ import annotations

import numpy as np
import pytest

from actswap.onnx.parity import OutputParity, compare, ranges, worst

EPS = float(np.finfo(np.float32).eps)


def one(reference: object, got: object) -> OutputParity:
    (found,) = compare(["y"], [np.asarray(reference, np.float32)], [np.asarray(got, np.float32)])
    return found


def test_a_difference_is_measured_against_the_largest_distance_from_the_mean() -> None:
    found = one([1.0, 3.0], [1.0, 3.5])
    assert (found.relative, found.max_abs) == (0.5, 0.5), "the values lie 1 from their mean 2"


def test_several_runs_share_one_range() -> None:
    """An output that is constant on one input may vary from input to input."""
    first, second = [np.float32([5.0, 5.0])], [np.float32([7.0, 7.0])]
    seen = ranges([first, second])
    (found,) = compare(["y"], first, [np.float32([5.0, 5.1])], seen)
    assert found.relative == pytest.approx(0.1, rel=1e-6)


def test_a_constant_output_is_measured_against_its_size() -> None:
    assert one([4.0, 4.0], [4.0, 4.4]).relative == pytest.approx(0.1, rel=1e-6)
    assert one([0.0, 0.0], [0.0, 0.0]).relative == 0.0 and one([0.0], [1e-30]).relative == float("inf")


@pytest.mark.parametrize(
    ("reference", "got"),
    [([1.0], [1.0, 1.0]), ([np.nan, 1], [1, 1]), ([np.inf, 1], [-np.inf, 1]), ([1.0, 2], [1.0, np.nan])],
)
def test_other_shapes_and_other_places_of_infinity_are_infinitely_far(reference: object, got: object) -> None:
    assert one(reference, got).relative == float("inf")


def test_equal_places_of_nan_and_infinity_and_nothing_at_all_agree() -> None:
    assert one([np.nan, np.inf, 1.0, 3.0], [np.nan, np.inf, 1.0, 3.0]).relative == 0.0
    assert one(np.zeros((0, 3)), np.zeros((0, 3))).relative == 0.0


def test_rounding_is_large_where_an_output_hardly_varies() -> None:
    (faint,), (plain,) = ranges([[np.array([1.0, 1.001])]]), ranges([[np.array([0.0, 1.0])]])
    assert plain.rounding == pytest.approx(8 * EPS * 1.0 / 0.5) and faint.rounding > 500 * plain.rounding


def test_the_worst_of_several_checks_is_taken_output_by_output() -> None:
    a, b = OutputParity("a", 1.0, 0.1), OutputParity("b", 0.1, 5.0)
    found = worst([a, b], [OutputParity("a", 0.5, 0.7), OutputParity("b", 0.3, 1.0)])
    assert found == (OutputParity("a", 1.0, 0.7), OutputParity("b", 0.3, 5.0))
