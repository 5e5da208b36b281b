"""A small normal form, so that every spelling of a formula compares equal.

An expression is a nested tuple: a product `("*", c, ((factor, power), ...))`, a sum `("+", c, ((c_i, factors), ...))`,
where a factor is the variable `("x",)`, a constant tensor `("t",)`, a function `("f", name, arg, numbers)` or a sum.
Products and sums are flattened, sorted, and carry their numbers in front; `0.5*x*(1+erf(x/sqrt2))` and
`x*(0.5+0.5*torch.erf(0.7071*x))` come out the same up to rounding of the numbers.
"""

from __future__ import annotations

import math
from typing import Any

Expr = tuple[Any, ...]

X: Expr = ("*", 1.0, ((("x",), 1.0),))
TENSOR: Expr = ("*", 1.0, ((("t",), 1.0),))


_ODD = ("tanh", "erf")


def number(c: float) -> Expr:
    """Make a constant expression."""
    return ("*", float(c), ())


def is_constant(e: Expr) -> bool:
    """True for an expression without a variable part."""
    return e[0] == "*" and not e[2]


def fn(name: str, arg: Expr, *numbers: float) -> Expr:
    """Apply a named function; `numbers` are its constants. Odd functions give the sign of their argument away."""
    if name in _ODD and arg[0] == "*" and arg[1] < 0:
        return mul(number(-1), fn(name, mul(number(-1), arg), *numbers))
    return ("*", 1.0, ((("f", name, arg, tuple(float(n) for n in numbers)), 1.0),))


def clamp(arg: Expr, low: float, high: float) -> Expr:
    """Cut at both bounds, which may be infinite; ReLU is the cut at zero from below, and a cut of a cut is one cut."""
    inner = _cut(arg)
    if inner is not None:
        arg, least, most = inner
        low, high = min(max(low, least), most), max(min(high, most), least)
    if (low, high) == (0.0, math.inf):
        return fn("relu", arg)
    if (low, high) == (-math.inf, 0.0):
        return mul(number(-1), fn("relu", mul(number(-1), arg)))
    return fn("clamp", arg, low, high)


def bounds(e: Expr) -> tuple[float, float] | None:
    """The bounds of an expression that is nothing but x, cut."""
    cut = _cut(e)
    return None if cut is None or cut[0] != X else cut[1:]


def _cut(e: Expr) -> tuple[Expr, float, float] | None:
    if e[0] != "*" or e[1] != 1.0 or len(e[2]) != 1 or e[2][0][1] != 1.0 or e[2][0][0][0] != "f":
        return None
    _, name, arg, numbers = e[2][0][0]
    return (arg, 0.0, math.inf) if name == "relu" else (arg, *numbers) if name == "clamp" else None


def fn2(name: str, a: Expr, b: Expr) -> Expr:
    """Apply a symmetric function of two arguments."""
    first, second = sorted((a, b), key=_order)
    return ("*", 1.0, ((("f2", name, first, second), 1.0),))


def mul(a: Expr, b: Expr) -> Expr:
    """Multiply two expressions."""
    coefficient, factors = 1.0, []
    for e in (a, b):
        if e[0] == "*":
            coefficient *= e[1]
            factors += list(e[2])
        else:
            scale, unit = _unit(e)
            coefficient *= scale
            factors.append((unit, 1.0))
    merged: dict[Expr, float] = {}
    for factor, power in factors:
        merged[factor] = merged.get(factor, 0.0) + power
    kept = tuple(sorted(((f, p) for f, p in merged.items() if p), key=_order))
    if len(kept) == 1 and kept[0][0][0] == "+" and kept[0][1] == 1.0:
        unit = kept[0][0]
        return ("+", coefficient * unit[1], tuple((coefficient * c, f) for c, f in unit[2]))
    return ("*", coefficient, kept)


def power(a: Expr, n: float) -> Expr:
    """Raise an expression to a constant power."""
    if n == 1.0:
        return a
    if a[0] == "+":
        scale, unit = _unit(a)
        return ("*", float(scale**n), ((unit, float(n)),)) if scale > 0 else fn("pow", a, n)
    if a[1] <= 0 and n != int(n):
        return fn("pow", a, n)
    return ("*", float(a[1] ** n) if a[1] else 0.0, tuple((f, p * n) for f, p in a[2]))


def add(a: Expr, b: Expr) -> Expr:
    """Add two expressions."""
    constant = 0.0
    terms: dict[Expr, float] = {}
    for e in (a, b):
        if e[0] == "+":
            constant += e[1]
            parts = e[2]
        elif is_constant(e):
            constant += e[1]
            continue
        else:
            parts = ((e[1], e[2]),)
        for c, factors in parts:
            terms[factors] = terms.get(factors, 0.0) + c
    kept = tuple(sorted(((c, f) for f, c in terms.items() if c), key=_order))
    if not kept:
        return number(constant)
    if len(kept) == 1 and constant == 0.0:
        return ("*", kept[0][0], kept[0][1])
    return ("+", constant, kept)


def skeleton(e: Any) -> tuple[Any, list[float]]:
    """Split an expression into its structure and the numbers in it, in a fixed order."""
    numbers: list[float] = []

    def walk(part: Any) -> Any:
        if isinstance(part, float):
            numbers.append(part)
            return "#"
        if isinstance(part, tuple):
            return tuple(walk(p) for p in part)
        return part

    return walk(e), numbers


def _unit(e: Expr) -> tuple[float, Expr]:
    scale = e[1] if e[1] else e[2][0][0]
    return scale, ("+", e[1] / scale, tuple((c / scale, f) for c, f in e[2]))


def _order(part: Any) -> tuple[str, list[float]]:
    structure, numbers = skeleton(part)
    return repr(structure), numbers
