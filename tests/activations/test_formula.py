"""Formulas as text: every expression comes back as it was, and nothing but formulas is read."""

from __future__ import annotations

import pytest
import torch

from actswap.activations.formula import compute, degree, parse, show
from actswap.errors import UsageError

TEXTS = [
    "x * sigmoid(p0 * x + 1)",
    "where(x > 0, x, p0 * expm1(x))",
    "-(x ** 2) ** 2",
    "x - (x - 1) - (2 - x)",
    "x / (x / 2) / 3",
    "2 ** x ** 2",
    "(-x) ** 2",
    "clamp(x, p0, inf)",
    "maximum(x, -0.5)",
    "x * (x > 1e-05)",
    "softplus(x, 2, 20)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_expression_are_the_same_thing(text: str) -> None:
    expression = parse(text)
    assert parse(show(expression)) == expression
    x = torch.linspace(0.5, 3.0, 7, dtype=torch.float64)
    value = torch.tensor(0.7, dtype=torch.float64)
    names = {"where": torch.where, "sigmoid": torch.sigmoid, "expm1": torch.expm1, "inf": float("inf")}
    names |= {"clamp": lambda a, low, high: a.clamp(min=low, max=torch.tensor(high))}
    names |= {"maximum": lambda a, b: torch.maximum(a, torch.tensor(b, dtype=a.dtype))}
    names |= {"softplus": torch.nn.functional.softplus}
    expected = eval(text, {"__builtins__": {}}, {**names, "x": x, "p0": value})  # the texts stand above
    torch.testing.assert_close(compute(expression, x, [value]), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x +",
        "__import__('os').system('true')",
        "x.data",
        "open(x)",
        "[x]",
        "sigmoid(input=x)",
        "lambda: x",
        "x if x else x",
        "y * x",
        "x" + " + x" * 3000,
        "(" * 300 + "x" + ")" * 300,
        "True * x",
        "'x'",
    ],
)
def test_anything_else_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="no formula of an activation"):
        parse(text)


def test_degrees() -> None:
    linear = ["x", "2 * x + 1", "p0 * x - p1", "(x + 1) / 3", "-x", "x ** 1"]
    assert [degree(parse(text)) for text in linear] == [1] * len(linear)
    assert degree(parse("p0 * 2 + exp(p1)")) == 0
    assert [degree(parse(text)) for text in ("x * x", "1 / x", "relu(x)", "2 ** x")] == [float("inf")] * 4
