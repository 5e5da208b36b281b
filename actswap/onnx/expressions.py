"""The ONNX function of any expression: its body is written from the tree, guards included."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from actswap.activations.base import OnnxFunction
from actswap.activations.expression import EPS, STEEPEST, Expression, Number, Variable, X, parameters_of, parts
from actswap.activations.grammar import parse

# The statements that compute `y` from `a` and `b`. Names that begin with `t` are new in each place; the constants
# are those of _CONSTANTS.
_STATEMENTS: Mapping[str, str] = {
    "neg": "y = Neg (a)",
    "abs": "y = Abs (a)",
    "square": "y = Mul (a, a)",
    "cube": "t1 = Mul (a, a); y = Mul (t1, a)",
    "sqrt": "t1 = Max (a, zero); t2 = Add (t1, eps); y = Sqrt (t2)",
    "log": "t1 = Abs (a); t2 = Add (t1, eps); y = Log (t2)",
    "exp": "t1 = Min (a, highest); y = Exp (t1)",
    "sin": "y = Sin (a)",
    "cos": "y = Cos (a)",
    "sinh": "t1 = Clip (a, lowest, highest); y = Sinh (t1)",
    "cosh": "t1 = Clip (a, lowest, highest); y = Cosh (t1)",
    "tanh": "y = Tanh (a)",
    "asinh": "y = Asinh (a)",
    "atan": "y = Atan (a)",
    "sinc": "t1 = Equal (a, zero); t2 = Where (t1, one, a); t3 = Sin (t2); t4 = Div (t3, t2); y = Where (t1, one, t4)",
    "relu": "y = Relu (a)",
    "sigmoid": "y = Sigmoid (a)",
    "softplus": "y = Softplus (a)",
    "erf": "y = Erf (a)",
    "add": "y = Add (a, b)",
    "sub": "y = Sub (a, b)",
    "mul": "y = Mul (a, b)",
    "div": (
        "t1 = GreaterOrEqual (b, zero); t2 = Add (b, eps); t3 = Sub (b, eps); t4 = Where (t1, t2, t3); y = Div (a, t4)"
    ),
    "max": "y = Max (a, b)",
    "min": "y = Min (a, b)",
}
_CONSTANTS = {"zero": 0.0, "one": 1.0, "eps": EPS, "lowest": -STEEPEST, "highest": STEEPEST}


@lru_cache(maxsize=1024)
def expression_function(text: str) -> OnnxFunction:
    """Return the ONNX function of an expression; its inputs are x and the trained numbers, sorted by name.

    Args:
        text: the expression.

    >>> function = expression_function("x*sigmoid(beta*x)")
    >>> function.inputs, function.op
    (('x', 'beta'), 'Expression_6d47ea57a8ab')
    """
    tree = parse(text)
    op = f"Expression_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return OnnxFunction(op, ("x", *parameters_of(tree)), {}, _body(tree))


def _body(tree: Expression) -> str:
    lines = ["xf = Cast <to = 1> (x)"]
    lines += [f"{name} = Constant <value = float {{{value!r}}}> ()" for name, value in _CONSTANTS.items()]
    names: dict[Expression, str] = {X: "xf"}
    for part in parts(tree):
        if part in names:
            continue  # equal parts are computed once
        name = f"v{len(names)}"
        if isinstance(part, Variable):
            names[part] = part.name
        elif isinstance(part, Number):
            names[part] = name
            lines.append(f"{name} = Constant <value = float {{{float(part.value)!r}}}> ()")
        else:
            names[part] = name
            inside = dict(zip("ab", (names[a] for a in part.arguments), strict=False))
            lines += _lines(_STATEMENTS[part.function], name, inside)
    if X not in set(parts(tree)):  # a constant has x's shape too
        lines += ["shape = Shape (x)", f"yf = Expand ({names[tree]}, shape)"]
    else:
        lines.append(f"yf = Identity ({names[tree]})")
    lines.append("y = CastLike (yf, x)")
    return "\n    " + "\n    ".join(lines) + "\n"


def _lines(statements: str, result: str, inside: Mapping[str, str]) -> list[str]:
    """Write the statements of one function with names of this place."""
    found = []
    for statement in statements.split("; "):
        left, _, right = statement.partition(" = ")
        operator, _, arguments = right.rstrip(")").partition(" (")
        given = ", ".join(_placed(word, result, inside) for word in arguments.split(", "))
        found.append(f"{_placed(left, result, inside)} = {operator} ({given})")
    return found


def _placed(word: str, result: str, inside: Mapping[str, str]) -> str:
    if word == "y":
        return result
    return f"{result}_{word}" if word[0] == "t" else inside.get(word, word)
