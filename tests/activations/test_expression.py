"""The functions of expressions: the paper's formulas in float64, their guards, their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from actswap.activations.expression import FUNCTIONS, Apply, Number, Variable, X, evaluate_expression, flops_of, parts

# Written here once more with the math module: what the paper's function is inside its domain.
PAPER = {
    "neg": lambda a: -a, "abs": abs, "square": lambda a: a**2, "cube": lambda a: a**3, "exp": math.exp,
    "sin": math.sin, "cos": math.cos, "sinh": math.sinh, "cosh": math.cosh, "tanh": math.tanh, "asinh": math.asinh,
    "atan": math.atan, "sinc": lambda a: math.sin(a) / a, "relu": lambda a: max(a, 0.0),
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)), "softplus": lambda a: math.log(1 + math.exp(a)), "erf": math.erf,
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "max": max, "min": min,
}  # fmt: skip
GUARDED = {"sqrt", "log", "div"}  # their guard moves every value


def value(name: str, *arguments: float) -> float:
    tree = Apply(name, tuple(Number(a) for a in arguments))
    return float(evaluate_expression(tree, {"x": torch.zeros((), dtype=torch.float64)}))


def test_every_function_is_checked() -> None:
    assert set(PAPER) | GUARDED == set(FUNCTIONS)


@pytest.mark.parametrize("name", PAPER)
def test_values_are_the_papers(name: str) -> None:
    for a in (-3.7, -0.4, 0.3, 2.9):
        arguments = (a, 1.3)[: FUNCTIONS[name].arity]
        assert value(name, *arguments) == pytest.approx(PAPER[name](*arguments), rel=1e-14, abs=1e-15)


def test_guards_are_those_of_the_docstring() -> None:
    assert value("sqrt", -5.0) == math.sqrt(1e-6) and value("sqrt", 4.0) == math.sqrt(4 + 1e-6)
    assert value("log", 0.0) == math.log(1e-6) and value("log", -2.0) == math.log(2 + 1e-6)
    assert value("div", 1.0, 0.0) == 1e6 and value("div", 1.0, -2.0) == 1 / (-2 - 1e-6)
    assert value("exp", 1e9) == math.exp(20) and value("cosh", -1e9) == math.cosh(20)
    assert value("sinc", 0.0) == 1.0


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_everywhere_near(name: str, dtype: torch.dtype) -> None:
    """No guard is missing: on [-30, 30], zero included, nothing is infinite, whatever the other argument."""
    x = torch.cat([torch.linspace(-30, 30, 301, dtype=dtype), torch.zeros(1, dtype=dtype)]).requires_grad_()
    other = torch.linspace(-2, 2, 302, dtype=dtype)
    arguments = (X, Variable("beta"))[: FUNCTIONS[name].arity]
    y = evaluate_expression(Apply(name, arguments), {"x": x, "beta": other})
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y.isfinite().all() and slope.isfinite().all()


def test_equal_parts_count_once_and_come_before_what_takes_them() -> None:
    gate = Apply("sigmoid", (X,))
    tree = Apply("mul", (gate, Apply("add", (gate, X))))
    assert flops_of(tree) == 3
    order = list(parts(tree))
    assert order.index(gate) < order.index(tree) == len(order) - 1


def test_a_constant_has_the_shape_of_x() -> None:
    assert evaluate_expression(Number(2.0), {"x": torch.zeros(2, 3)}).tolist() == [[2.0] * 3] * 2
