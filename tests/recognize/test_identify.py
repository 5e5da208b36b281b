"""Formulas are told apart by what they compute: near misses, caps, constants, and values a parameter only has now."""

from __future__ import annotations

import pytest
import torch

from actswap.activations.formula import parse
from actswap.activations.plain import PLAIN
from actswap.recognize.identify import identify, is_rational


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0.5 * x * (1 + tanh(0.7978845608 * (x + 0.044715 * x ** 3)))", "gelu_tanh"),
        ("0.5 * x * (1 + erf(x / 1.4142135))", "gelu"),
        ("x * sigmoid(1.7 * x)", "swish"),
        ("x * sigmoid(1.702 * x)", "quick_gelu"),
        ("clamp(x, 0, 20)", "hardtanh"),
        ("minimum(relu(x), 65504)", "hardtanh"),
        ("relu(x)", "relu"),
        ("2 * sigmoid(2 * x) - 1", "tanh"),
        ("-softplus(-x)", "logsigmoid"),
    ],
)
def test_functions_that_are_close_to_each_other(text: str, kind: str) -> None:
    source = identify(parse(text))
    assert source is not None and source.kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "relu(x) - relu(-x)",
        "abs(x)",
        "clamp(x, 1e-06, inf)",
        "clamp(x, -inf, 6)",
        "relu(x) * 2",
        "x * sigmoid(x + 0.01)",
        "0.5 * x * (1 + erf(x))",
        "log(x)",
    ],
)
def test_what_is_no_row_of_the_table(text: str) -> None:
    assert identify(parse(text)) is None


def test_a_kind_must_hold_for_every_value_of_a_parameter() -> None:
    one = torch.ones(1)
    assert str(identify(parse("x * sigmoid(x)"))) == "silu"
    assert str(identify(parse("x * sigmoid(p0 * x)"), [one], [True])) == "swish(beta=1)"
    assert identify(parse("relu(x) * p0"), [one], [True]) is None
    assert identify(parse("silu(x) * p0"), [one], [True]) is None


def test_acon_of_any_order_of_its_slopes() -> None:
    p1, p2 = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.5, 0.3, -0.7])
    text = "(p0 * x - p1 * x) * sigmoid(p2 * (p0 * x - p1 * x)) + p1 * x"
    source = identify(parse(text), [p1, p2, torch.ones(3)], [True] * 3)
    assert source is not None and source.kind == "acon_c"
    # Exchanging p1 and p2 changes nothing: either order is right.
    assert {source.get("p1"), source.get("p2")} == {tuple(p1.tolist()), tuple(p2.tolist())}


def test_a_cap_is_not_lost_beyond_the_grid_of_the_data() -> None:
    for limit in (20.0, 1e3, 65504.0):
        source = identify(parse(f"clamp(x, 0, {limit})"))
        assert source is not None and source.get("high") == limit


def test_quotients_of_polynomials() -> None:
    assert is_rational(parse("(p0 + p1 * x + p2 * x ** 2) / (1 + abs(p3 * x))"))
    assert not is_rational(parse("x * sigmoid(x) / (1 + abs(x))"))
    assert not is_rational(parse("p0 + p1 * x"))
    assert not is_rational(parse("x / (1 + 1 / (1 + x))"))


def test_the_table_is_closed() -> None:
    """Every row with constants that formulas spell out is found with other constants than its defaults."""
    texts = {
        "swish": "x * sigmoid(1.3 * x)",
        "celu": "where(x > 0, x, 1.7 * expm1(x / 1.7))",
        "softplus": "log(1 + exp(1.7 * x)) / 1.7",
        "snake": "x + sin(1.3 * x) ** 2 / 1.3",
        "threshold": "where(x > 0.4, x, -0.3)",
        "hardshrink": "x * (abs(x) > 0.4)",
        "softshrink": "relu(x - 0.4) - relu(-x - 0.4)",
        "star_relu": "0.7 * relu(x) ** 2 + 0.2",
        "tanhsoft1": "tanh(0.6 * x) * softplus(x)",
        "tanhsoft2": "x * tanh(0.8 * exp(1.2 * x))",
        "elu": "where(x > 0, x, 0.7 * expm1(x))",
        "hardtanh": "clamp(x, -0.5, 2.5)",
        "hardsigmoid": "clamp(0.2 * x + 0.5, 0, 1)",
        "leaky_relu": "where(x > 0, x, 0.3 * x)",
    }
    solved = {name for name, row in PLAIN.items() if row.solve is not None}
    assert solved == set(texts)
    for kind, text in texts.items():
        source = identify(parse(text))
        assert source is not None and source.kind == kind, text
