"""Elementwise formulas of one tensor x as data: printed, read back, computed.

An expression is `("x",)`, a number, `("p", k)` for the k-th constant tensor beside x, or `(name, *arguments)` with a
name of `FUNCTIONS`. Its text is a Python expression, `x * sigmoid(p0 * x + 1.0)`; reading it back runs no code.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from actswap.errors import UsageError

Expr = float | tuple[Any, ...]
X: Expr = ("x",)

_UNARY = (
    "abs acosh asin asinh atan atanh cos cosh erf erfc exp exp2 expm1 log log10 log1p log2 neg reciprocal "
    "relu rsqrt selu sigmoid sign sin sinc sinh sqrt square tan tanh"
)
_FUNCTIONAL = "silu mish hardswish hardsigmoid softsign logsigmoid tanhshrink gelu leaky_relu elu celu softplus"
_FUNCTIONAL += " hardshrink softshrink threshold"
FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    **{name: getattr(torch, name) for name in _UNARY.split()},
    **{name: getattr(F, name) for name in _FUNCTIONAL.split()},
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "ndtr": torch.special.ndtr,
    "log_ndtr": torch.special.log_ndtr,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "logaddexp": torch.logaddexp,
    "heaviside": torch.heaviside,
    "clamp": torch.clamp,
    "where": torch.where,
    "gt": torch.gt,
    "ge": torch.ge,
    "lt": torch.lt,
    "le": torch.le,
    "eq": torch.eq,
    "ne": torch.ne,
}
_OPERATORS: Mapping[str, tuple[str, int]] = {  # infix sign and how tightly it binds
    "gt": (">", 0),
    "ge": (">=", 0),
    "lt": ("<", 0),
    "le": ("<=", 0),
    "eq": ("==", 0),
    "ne": ("!=", 0),
    "add": ("+", 1),
    "sub": ("-", 1),
    "mul": ("*", 2),
    "div": ("/", 2),
    "pow": ("**", 4),
}
_SIGNS: Mapping[type[ast.AST], str] = {
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
}
_ONLY_TENSORS = frozenset(("where", "maximum", "minimum", "logaddexp", "heaviside"))
_LONGEST = 4000  # characters: more than any activation needs


def show(e: Expr) -> str:
    """Return the text of an expression.

    >>> show(("mul", ("x",), ("sigmoid", ("add", ("mul", ("p", 0), ("x",)), 1.0))))
    'x * sigmoid(p0 * x + 1)'
    """
    return _show(e)[0]


def _show(e: Expr) -> tuple[str, int]:
    if not isinstance(e, tuple):
        text = repr(float(e)).removesuffix(".0")
        return (text, 9 if e >= 0 else 3)
    if e[0] == "x":
        return "x", 9
    if e[0] == "p":
        return f"p{e[1]}", 9
    if e[0] == "neg":
        return f"-{_in(e[1], 3)}", 3
    if e[0] in _OPERATORS:
        sign, level = _OPERATORS[e[0]]
        left, right = (level + 1, level) if sign == "**" else (level, level + 1)
        return f"{_in(e[1], left)} {sign} {_in(e[2], right)}", level
    return f"{e[0]}({', '.join(_show(a)[0] for a in e[1:])})", 9


def _in(e: Expr, level: int) -> str:
    text, own = _show(e)
    return text if own >= level else f"({text})"


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Expr:
    """Read the text of an expression.

    >>> parse("where(x > 0, x, p0 * expm1(x))")[0]
    'where'

    Raises:
        UsageError: the text is no elementwise formula.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError("too long")
        return _parse(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UsageError(f"this is no formula of an activation: {text[:60]!r}", why=str(error)) from None


def _parse(node: ast.AST) -> Expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.Name):
        if node.id == "x":
            return X
        if node.id in ("inf", "nan"):
            return math.inf if node.id == "inf" else math.nan
        if node.id[0] == "p" and node.id[1:].isdigit():
            return ("p", int(node.id[1:]))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _parse(node.operand)
        return ("neg", inner) if isinstance(inner, tuple) else -inner
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return (_SIGNS[type(node.op)], _parse(node.left), _parse(node.right))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _SIGNS:
        return (_SIGNS[type(node.ops[0])], _parse(node.left), _parse(node.comparators[0]))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args and not node.keywords:
        if node.func.id not in FUNCTIONS:
            raise ValueError(f"{node.func.id} is no elementwise function")
        return (node.func.id, *(_parse(a) for a in node.args))
    raise ValueError(f"{ast.unparse(node)} is no part of one")


def compute(e: Expr, x: Tensor, values: Sequence[Tensor | float] = ()) -> Tensor:
    """Compute an expression.

    Args:
        e: the expression.
        x: its variable.
        values: the tensors `("p", k)` stand for; they broadcast with x.

    Returns:
        A tensor like x.
    """
    result = _compute(e, x, values)
    return result if isinstance(result, Tensor) else torch.full_like(x, result)


def _compute(e: Expr, x: Tensor, values: Sequence[Tensor | float]) -> Any:
    if not isinstance(e, tuple):
        return e
    if e[0] == "x":
        return x
    if e[0] == "p":
        return values[e[1]]
    args = [_compute(a, x, values) for a in e[1:]]
    name = e[0]
    bounded = name == "clamp" and any(isinstance(a, Tensor) for a in args[1:])
    if bounded or name in _ONLY_TENSORS or not isinstance(args[0], Tensor):
        args = [a if isinstance(a, Tensor) else torch.as_tensor(a, dtype=x.dtype, device=x.device) for a in args]
    return FUNCTIONS[name](*args)


def parameters(e: Expr) -> int:
    """Return how many tensors beside x an expression reads: one more than the largest k of its `("p", k)`."""
    if not isinstance(e, tuple) or e[0] == "x":
        return 0
    return int(e[1]) + 1 if e[0] == "p" else max((parameters(a) for a in e[1:]), default=0)


def degree(e: Expr) -> float:
    """Return 0 for a constant, 1 for a linear function of x (with a shift), infinity for anything else.

    >>> degree(("add", ("mul", 2.0, ("x",)), 1.0)), degree(("mul", ("x",), ("x",)))
    (1, inf)
    """
    if not isinstance(e, tuple) or e[0] == "p":
        return 0
    if e[0] in ("x", "m"):
        return 1
    degrees = [degree(a) for a in e[1:]]
    if max(degrees) == 0:
        return 0
    linear = (
        e[0] in ("add", "sub", "neg")
        or (e[0] == "mul" and min(degrees) == 0)
        or (e[0] == "div" and degrees[1] == 0)
        or (e[0] == "pow" and e[2] == 1.0)
    )
    return max(degrees) if linear else math.inf


def names(e: Expr) -> set[str]:
    """Return the functions of x that an expression is made of; functions of constants are left out."""
    if not isinstance(e, tuple) or degree(e) == 0 or e[0] in ("x", "m"):
        return set()
    return {e[0]}.union(*(names(a) for a in e[1:]))
