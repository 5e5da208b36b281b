"""The search space: core units b(u1(i1), u2(i2)), one after the other (Ramachandran et al. 2017, section 2).

A unit reads x or the result of an earlier unit; the last unit's result is the activation. A point of the space is one
choice per component, so that every sampler of Optuna can search it.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from actswap.activations.expression import BETA, Apply, Expression, Variable, X
from actswap.activations.fingerprint import canonical_expression, digest, probe
from actswap.activations.grammar import parse
from actswap.errors import UsageError

# The paper's functions, as text of `a` (and `b`); written in the letters of the grammar, so `x` stands for `a`.
UNARY: Mapping[str, str] = {
    "x": "x", "-x": "-x", "|x|": "abs(x)", "x^2": "x**2", "x^3": "x**3", "sqrt(x)": "sqrt(x)", "beta*x": "beta*x",
    "x+beta": "x+beta", "log(|x|)": "log(x)", "exp(x)": "exp(x)", "sin(x)": "sin(x)", "cos(x)": "cos(x)",
    "sinh(x)": "sinh(x)", "cosh(x)": "cosh(x)", "tanh(x)": "tanh(x)", "asinh(x)": "asinh(x)", "atan(x)": "atan(x)",
    "sinc(x)": "sinc(x)", "max(x,0)": "relu(x)", "min(x,0)": "min(x, 0)", "sigmoid(x)": "sigmoid(x)",
    "log(1+exp(x))": "softplus(x)", "exp(-x^2)": "exp(-x**2)", "erf(x)": "erf(x)", "beta": "beta",
}  # fmt: skip
# Of the two arguments, written as beta8 and beta9, which nothing else uses.
BINARY: Mapping[str, str] = {
    "a+b": "beta8+beta9", "a*b": "beta8*beta9", "a-b": "beta8-beta9", "a/b": "beta8/beta9",
    "max(a,b)": "max(beta8, beta9)", "min(a,b)": "min(beta8, beta9)", "sigmoid(a)*b": "sigmoid(beta8)*beta9",
    "exp(-beta*(a-b)^2)": "exp(-beta*(beta8-beta9)**2)", "exp(-beta*|a-b|)": "exp(-beta*abs(beta8-beta9))",
    "beta*a+(1-beta)*b": "beta*beta8+(1-beta)*beta9",
}  # fmt: skip
_LEFT, _RIGHT = Variable("beta8"), Variable("beta9")
_MOST_UNITS = 4
Point = Mapping[str, str]


@dataclass(frozen=True)
class Space:
    """A space of activations.

    Attributes:
        units: number of core units, 1 to 4.
        unary: names of the unary functions, of `UNARY`.
        binary: names of the binary functions, of `BINARY`.

    >>> from actswap.activations.grammar import text_of
    >>> space = Space(units=1)
    >>> space.size
    6250
    >>> text_of(space.expression({"0.u1": "x", "0.u2": "sigmoid(x)", "0.b": "a*b"}))
    'x*sigmoid(x)'
    """

    units: int = 1
    unary: tuple[str, ...] = tuple(UNARY)
    binary: tuple[str, ...] = tuple(BINARY)

    def __post_init__(self) -> None:
        problems = [f"units = {self.units}: must be 1 to {_MOST_UNITS}"] * (not 1 <= self.units <= _MOST_UNITS)
        for kind, names, known in (("unary", self.unary, UNARY), ("binary", self.binary, BINARY)):
            if not names:
                problems.append(f"{kind}: names no function, so the space is empty")
            problems += [f"{kind}: there is no {name!r}; {_near(name, known)}" for name in names if name not in known]
            if len(set(names)) < len(names):
                problems.append(f"{kind}: names a function twice")
        if self.unary and set(self.unary) <= {"beta"}:
            problems.append("unary: no function of x among them, so the space is empty")
        if problems:
            raise UsageError("this search space cannot be searched", why="; ".join(problems))

    @property
    def components(self) -> Mapping[str, tuple[str, ...]]:
        """Every component with its choices, in the order in which a controller decides them."""
        found: dict[str, tuple[str, ...]] = {}
        for unit in range(self.units):
            inputs = ("x", *(f"unit{k}" for k in range(unit)))
            for side in ("1", "2"):
                if unit:  # the first unit can read nothing but x
                    found[f"{unit}.i{side}"] = inputs
                found[f"{unit}.u{side}"] = self.unary
            found[f"{unit}.b"] = self.binary
        return found

    @property
    def size(self) -> int:
        """Number of points; several points may be the same function."""
        count = 1
        for choices in self.components.values():
            count *= len(choices)
        return count

    def expression(self, point: Point) -> Expression:
        """Return the activation that a point stands for, in canonical form.

        Raises:
            UsageError: the point lacks a component, or chooses what the space does not have.
        """
        for name, choices in self.components.items():
            if point.get(name) not in choices:
                raise UsageError(
                    f"{name} = {point.get(name)!r} is no choice of this space", why=f"{', '.join(choices)}"
                )
        results: dict[str, Expression] = {"x": X}
        for unit in range(self.units):
            sides = [
                _put(parse(UNARY[point[f"{unit}.u{side}"]]), {X: results[point.get(f"{unit}.i{side}", "x")]})
                for side in ("1", "2")
            ]
            results[f"unit{unit}"] = _put(
                parse(BINARY[point[f"{unit}.b"]]), dict(zip((_LEFT, _RIGHT), sides, strict=True))
            )
        return canonical_expression(results[f"unit{self.units - 1}"])

    def points(self) -> Iterator[Point]:
        """Yield every point of the space, in a fixed order."""
        names = list(self.components)
        for choices in itertools.product(*self.components.values()):
            yield dict(zip(names, choices, strict=True))

    def distinct(self) -> dict[str, Point]:
        """Return the first point of every function, by fingerprint; constants are left out."""
        found: dict[str, Point] = {}
        for point in self.points():
            values = probe(self.expression(point))
            if _changes(values):
                found.setdefault(digest(values), point)
        return found


def _put(node: Expression, values: Mapping[Variable, Expression]) -> Expression:
    """Put expressions in the place of variables."""
    if isinstance(node, Apply):
        return Apply(node.function, tuple(_put(a, values) for a in node.arguments))
    return values.get(node, node) if isinstance(node, Variable) else node


def is_activation(expression: Expression) -> bool:
    """Return whether an expression changes with x; a constant is no activation.

    >>> is_activation(BETA), is_activation(Apply("mul", (BETA, X))), is_activation(Apply("sub", (X, X)))
    (False, True, False)
    """
    return _changes(probe(expression))


def _changes(values: Tensor) -> bool:
    return bool((values != values[0]).any())


def _near(name: str, known: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"the nearest are {', '.join(near)}" if near else f"known are {', '.join(known)}"


def published() -> Sequence[str]:
    """Return the eight functions that the paper found best, its Table 1, as expressions.

    >>> published()[0]
    'x*sigmoid(beta*x)'
    """
    return (
        "x*sigmoid(beta*x)", "max(x, sigmoid(x))", "cos(x)-x", "min(x, sin(x))", "atan(x)**2-x", "max(x, tanh(x))",
        "sinc(x)+x", "x*asinh(x)**2",
    )  # fmt: skip


__all__ = ["BETA", "BINARY", "UNARY", "Point", "Space", "is_activation", "published"]
