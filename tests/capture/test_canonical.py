"""Every spelling of an operation has one name and one argument list."""

from __future__ import annotations

import math
import operator

import pytest
import torch
import torch.nn.functional as F

from actswap.capture.canonical import canonical, is_number, name_of

X, Y = object(), object()


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (torch.mul, (X, 2), {}),
        (torch.mul, (X,), {"other": 2}),
        (torch.Tensor.mul, (X, 2), {}),
        (torch.Tensor.multiply, (X, 2), {}),
        (operator.mul, (X, 2), {}),
        ("mul", (X, 2), {}),
        ("mul.Tensor", (X, 2), {}),
        ("__rmul__", (X, 2), {}),
    ],
)
def test_products(func, args, kwargs) -> None:
    found = canonical(func, args, kwargs)
    first, second = found.args["input"], found.args["other"]
    assert found.name == "mul" and not found.inplace and {id(first), id(second)} == {id(X), id(2)}


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("sub", X, Y), ("__rsub__", Y, X), ("__rtruediv__", Y, X), ("__isub__", X, Y)],
)
def test_reversed_operators_exchange_their_operands(name, first, second) -> None:
    found = canonical(name, (X, Y), {})
    assert found.args["input"] is first and found.args["other"] is second


def test_a_name_says_whether_operands_are_exchanged_and_whether_the_input_is_overwritten() -> None:
    assert name_of("__rpow__") == ("pow", False, True)
    assert name_of("__ipow__") == name_of("pow_") == ("pow", True, False)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [(F.relu, (X, True), {}), (F.relu, (X,), {"inplace": True}), (torch.relu_, (X,), {}), ("relu_", (X,), {})],
)
def test_what_overwrites_its_input_says_so(func, args, kwargs) -> None:
    assert canonical(func, args, kwargs) == ("relu", {"input": X}, True)


def test_relu6_and_one_sided_clamps_are_special_cases_of_two_sided_ones() -> None:
    assert canonical(F.relu6, (X,), {}) == canonical(F.hardtanh, (X, 0.0, 6.0), {})
    assert canonical(torch.clamp_min, (X, 1), {}).args == {"input": X, "min": 1, "max": None}
    assert canonical(torch.clamp_max, (X, 1), {}).args == {"input": X, "min": None, "max": 1}


def test_a_division_that_rounds_is_no_division() -> None:
    assert canonical(torch.div, (X, 2), {"rounding_mode": "floor"}).name == "floor_divide"
    assert canonical(torch.div, (X, 2), {"rounding_mode": None}).name == "div"


def test_numbers_are_finite_and_no_truth_values() -> None:
    assert is_number(2) and is_number(-0.5)
    assert not any(is_number(value) for value in (True, math.inf, math.nan, "2", None, torch.ones(())))
