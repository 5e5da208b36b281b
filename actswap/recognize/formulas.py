"""The decomposed forms of activations, each written once; every spelling of it is found by its normal form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actswap.recognize.algebra import TENSOR, Expr, X, add, clamp, fn, fn2, mul, number, power, skeleton

_TOLERANCE = 1e-3  # constants are written with 3 to 8 digits in people's code: 1.702, 0.7979, 0.044715


@dataclass(frozen=True)
class Form:
    """One formula: the kind it is, and its expression for given constants."""

    kind: str
    build: Callable[..., Expr]
    free: tuple[str, ...] = ()
    domain: Callable[[float], bool] = lambda value: True


def _c(value: float, e: Expr) -> Expr:
    return mul(number(value), e)


def _sigmoid(e: Expr) -> Expr:
    return fn("sigmoid", e)


def _logistic(e: Expr) -> Expr:
    return power(add(number(1), fn("exp", _c(-1, e))), -1)


_RELU = fn("relu", X)
_SOFTPLUS = fn("softplus", X)
_EXP = fn("exp", X)
_FALL = add(number(1), _c(-1, _EXP))  # 1 - exp(x)
_RISE = add(power(_EXP, 2), _c(2, _EXP))  # (1 + exp(x))^2 - 1
_SQUARE = power(add(number(1), _EXP), 2)
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_CUBIC = add(X, _c(0.044715, power(X, 3)))
_CUBIC_FACTORED = mul(X, add(number(1), _c(0.044715, power(X, 2))))
_ROOT = math.sqrt(2 / math.pi)


def _gelu_tanh(cubic: Expr) -> Expr:
    return mul(_c(0.5, X), add(number(1), fn("tanh", _c(_ROOT, cubic))))


_FORMS = [
    Form("silu", lambda: mul(X, _sigmoid(X))),
    Form("silu", lambda: mul(X, _logistic(X))),
    Form("quick_gelu", lambda: mul(X, _sigmoid(_c(1.702, X)))),
    Form("swish", lambda beta: mul(X, _sigmoid(_c(beta, X))), ("beta",)),
    Form("swish", lambda: mul(X, _sigmoid(mul(TENSOR, X)))),
    Form("gelu", lambda: mul(_c(0.5, X), add(number(1), fn("erf", _c(math.sqrt(0.5), X))))),
    Form("gelu_tanh", lambda: _gelu_tanh(_CUBIC)),
    Form("gelu_tanh", lambda: _gelu_tanh(_CUBIC_FACTORED)),
    Form("gelu_tanh", lambda: mul(X, _sigmoid(_c(2 * _ROOT, _CUBIC)))),
    Form("gelu_tanh", lambda: mul(X, _sigmoid(_c(2 * _ROOT, _CUBIC_FACTORED)))),
    Form("mish", lambda: mul(X, fn("tanh", _SOFTPLUS))),
    Form("mish", lambda: mul(mul(X, _RISE), power(add(_RISE, number(2)), -1))),
    Form("mish", lambda: mul(mul(X, add(_SQUARE, number(-1))), power(add(_SQUARE, number(1)), -1))),
    Form("hardswish", lambda: _c(1 / 6, mul(X, clamp(add(X, number(3)), 0, 6)))),
    Form("hardswish", lambda: mul(X, clamp(add(_c(1 / 6, X), number(0.5)), 0, 1))),
    Form("hardswish", lambda: mul(X, fn("hardsigmoid", X))),
    Form("hardsigmoid", lambda: _c(1 / 6, clamp(add(X, number(3)), 0, 6))),
    Form("hardsigmoid", lambda: clamp(add(_c(1 / 6, X), number(0.5)), 0, 1)),
    Form("relu2", lambda: power(_RELU, 2)),
    Form("star_relu", lambda scale, bias: add(_c(scale, power(_RELU, 2)), number(bias)), ("scale", "bias")),
    Form("relu", lambda: _c(0.5, add(X, fn("abs", X)))),
    Form("relu", lambda: _RELU),
    Form("relu", lambda: mul(X, fn("step", X))),
    Form("leaky_relu", lambda slope: fn2("maximum", X, _c(slope, X)), ("slope",), lambda s: 0 < s < 1),
    Form("leaky_relu", lambda slope: fn("where", X, slope), ("slope",)),
    Form("leaky_relu", lambda slope: add(_RELU, _c(-slope, fn("relu", _c(-1, X)))), ("slope",)),
    Form("elu", lambda alpha: fn("where_elu", X, alpha), ("alpha",)),
    Form("elu", lambda alpha: add(_RELU, _c(-1, fn("relu", _c(alpha, _FALL)))), ("alpha",)),
    Form("selu", lambda: _c(_SELU_SCALE, fn("where_elu", X, _SELU_ALPHA))),
    Form("selu", lambda: _c(_SELU_SCALE, add(_RELU, _c(-1, fn("relu", _c(_SELU_ALPHA, _FALL)))))),
    Form("relu6", lambda: clamp(X, 0, 6)),
    Form("softplus", lambda: fn("log", add(number(1), fn("exp", X)))),
    Form("softplus", lambda: fn2("logaddexp", X, number(0))),
    Form("softplus", lambda: add(_RELU, fn("log", add(number(1), fn("exp", _c(-1, fn("abs", X))))))),
    Form("softplus", lambda: _SOFTPLUS),
    Form("softsign", lambda: mul(X, power(add(number(1), fn("abs", X)), -1))),
    Form("tanhshrink", lambda: add(X, _c(-1, fn("tanh", X)))),
    Form("logsigmoid", lambda: fn("log", _sigmoid(X))),
    Form("sigmoid", lambda: _logistic(X)),
    Form("sigmoid", lambda: _c(0.5, add(number(1), fn("tanh", _c(0.5, X))))),
    Form("silu", lambda: mul(X, _c(0.5, add(number(1), fn("tanh", _c(0.5, X)))))),
    Form("swish", lambda beta: mul(X, power(add(number(1), fn("exp", _c(-beta, X))), -1)), ("beta",)),
]


@dataclass(frozen=True)
class _Compiled:
    form: Form
    numbers: tuple[float, ...]
    slots: tuple[tuple[int, float], ...]  # for each free constant: where it stands, and its factor there


def _compile() -> dict[Any, list[_Compiled]]:
    table: dict[Any, list[_Compiled]] = {}
    for form in _FORMS:
        base = {name: 0.25 + 0.1 * i for i, name in enumerate(form.free)}
        structure, numbers = skeleton(form.build(**base))
        slots = []
        for name in form.free:
            moved = skeleton(form.build(**{**base, name: base[name] * 2}))[1]
            index = max(range(len(numbers)), key=lambda i: abs(moved[i] - numbers[i]))
            slots.append((index, numbers[index] / base[name]))
        table.setdefault(structure, []).append(_Compiled(form, tuple(numbers), tuple(slots)))
    return table


_TABLE = _compile()


def match(e: Expr) -> tuple[str, dict[str, float]] | None:
    """Return the kind and constants of a formula in x, or None."""
    structure, numbers = skeleton(e)
    for entry in _TABLE.get(structure, ()):
        values = {name: numbers[i] / k for name, (i, k) in zip(entry.form.free, entry.slots, strict=True)}
        if not all(math.isfinite(v) and entry.form.domain(v) for v in values.values()):
            continue
        wanted = skeleton(entry.form.build(**values))[1] if values else entry.numbers
        if len(wanted) == len(numbers) and all(
            abs(a - b) <= _TOLERANCE * max(abs(b), 1e-3) for a, b in zip(numbers, wanted, strict=True)
        ):
            return entry.form.kind, values
    return None
