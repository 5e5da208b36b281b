"""Equal expressions: a canonical text, and a fingerprint of the function's values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from actswap.activations.expression import Apply, Expression, Number, Variable, evaluate_expression, parameters_of

_SYMMETRIC = ("add", "mul", "max", "min")
_POINTS = 129
_DIGITS = 9  # of the values that are compared: rounding in float64 leaves 12 even after the steepest functions
_BETAS = (0.7, 1.3, -0.4, 2.1, 0.31, 1.9, -1.2, 0.55, 1.1)  # in no simple ratio to each other


def canonical_expression(expression: Expression) -> Expression:
    """Order the arguments of symmetric functions, fold constants, and drop double signs and neutral elements.

    >>> from actswap.activations.grammar import parse, text_of
    >>> text_of(canonical_expression(parse("sigmoid(x)*x + 0")))
    'x*sigmoid(x)'
    """
    if not isinstance(expression, Apply):
        return expression
    arguments = tuple(canonical_expression(a) for a in expression.arguments)
    name = expression.function
    if all(isinstance(a, Number) for a in arguments):
        at = evaluate_expression(Apply(name, arguments), {"x": torch.zeros((), dtype=torch.float64)})
        return Number(float(at)) if at.isfinite() else Apply(name, arguments)
    if name == "neg" and isinstance(arguments[0], Apply) and arguments[0].function == "neg":
        return arguments[0].arguments[0]
    if name in _SYMMETRIC:
        arguments = tuple(sorted(arguments, key=_order))
    zero, one = Number(0.0), Number(1.0)
    if name in ("add", "sub") and arguments[1] == zero:
        return arguments[0]
    if name == "add" and arguments[0] == zero:
        return arguments[1]
    if name == "mul" and one in arguments:
        return arguments[1] if arguments[0] == one else arguments[0]
    if name in ("max", "min") and arguments[0] == arguments[1]:
        return arguments[0]
    if name == "max" and zero in arguments:
        return canonical_expression(Apply("relu", (arguments[0] if arguments[1] == zero else arguments[1],)))
    return Apply(name, arguments)


def _order(node: Expression) -> tuple[int, str]:
    kind = 0 if isinstance(node, Number) else 1 if isinstance(node, Variable) else 2
    return kind, repr(node)


def fingerprint(expression: Expression) -> str:
    """Return a digest of the function's values: equal functions have equal ones, however they are written.

    The values are those on 129 points in [-6, 6], in float64, at fixed values of beta, rounded to nine digits.
    Functions that differ only outside that range, or by less, count as equal.

    >>> from actswap.activations.grammar import parse
    >>> fingerprint(parse("max(x, 0)")) == fingerprint(parse("relu(x)"))
    True
    """
    return digest(probe(expression))


def digest(values: Tensor) -> str:
    """Return the fingerprint of the values that `probe` gave."""
    return hashlib.sha256(" ".join(_rounded(v) for v in values.tolist()).encode()).hexdigest()[:16]


def probe(expression: Expression) -> Tensor:
    """Return the values that a fingerprint is made of, float64."""
    x = torch.linspace(-6, 6, _POINTS, dtype=torch.float64)
    x = x + 0.01 * torch.cos(7 * x)  # no point is special: not 0, no symmetric pairs
    names = parameters_of(expression)
    values: Mapping[str, Tensor] = {
        "x": x,
        **{name: torch.tensor(beta, dtype=torch.float64) for name, beta in zip(names, _BETAS, strict=False)},
    }
    return evaluate_expression(expression, values)


def _rounded(value: float) -> str:
    text = f"{value:.{_DIGITS - 1}e}"
    return "0" if abs(value) < 1e-12 else text
