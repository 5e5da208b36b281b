"""The text form of expressions: `max(x, sigmoid(beta*x))` to a tree and back.

    sum      = product (("+" | "-") product)*
    product  = signed (("*" | "/") signed)*
    signed   = "-" signed | power
    power    = atom ("**" ("2" | "3"))?
    atom     = number | "x" | "beta" | "beta2" ... "beta9" | function "(" sum ("," sum)* ")" | "(" sum ")"

The functions are those of `expression.FUNCTIONS`. The text is data: nothing of it is evaluated by Python.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from actswap.activations.expression import FUNCTIONS, Apply, Expression, Number, Variable
from actswap.errors import UsageError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<sign>\*\*|[-+*/(),]))", re.ASCII
)
_VARIABLE = re.compile(r"x|beta[2-9]?")
_NAMED = {name: f for name, f in FUNCTIONS.items() if name not in ("neg", "add", "sub", "mul", "div")}
_LONGEST, _DEEPEST = 1000, 50  # limits on characters and nested brackets: texts come from files and users
_INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2)}
_POWERS = {"2": "square", "3": "cube"}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


def looks_like_expression(text: str) -> bool:
    """Return whether a target is meant as an expression: it applies something, or is x alone.

    >>> looks_like_expression("x*sigmoid(x)"), looks_like_expression("acon_c")
    (True, False)
    """
    return text.strip() == "x" or bool(re.search(r"[-+*/()]", text))


def parse(text: str) -> Expression:
    """Read an expression.

    Args:
        text: e.g. `x*sigmoid(beta*x)`; at most 1000 characters.

    Returns:
        The tree.

    Raises:
        UsageError: the text is no expression; the message points at the column.

    >>> parse("max(x, 0)")
    Apply(function='max', arguments=(Variable(name='x'), Number(value=0.0)))
    """
    if len(text) > _LONGEST:
        raise UsageError(f"an expression of {len(text)} characters", why=f"at most {_LONGEST} are read")
    reader = _Reader(text)
    found = reader.sum()
    if reader.token.kind != "end":
        raise reader.error(f"expected an operator or the end, found {reader.token.text!r}")
    return found


class _Reader:
    """A recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = self.depth = 0
        self.token = self._next()

    def _next(self) -> _Token:
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            rest = self.text[self.position :]
            column = self.position + len(rest) - len(rest.lstrip())
            if not rest.strip():
                return _Token("end", "the end", len(self.text))
            raise self.error(f"{rest.strip()[0]!r} has no meaning here", column)
        self.position = match.end()
        kind = str(match.lastgroup)
        return _Token(kind, match[kind], match.start(kind))

    def error(self, why: str, column: int | None = None) -> UsageError:
        at = self.token.column if column is None else column
        return UsageError(
            f"{self.text!r} is no expression",
            where=f"column {at + 1}\n    {self.text}\n    {' ' * at}^",
            why=why,
            fix="for example 'x*sigmoid(beta*x)' or 'max(x, tanh(x))'",
        )

    def take(self, *texts: str) -> str | None:
        if self.token.kind != "sign" or self.token.text not in texts:
            return None
        taken, self.token = self.token.text, self._next()
        return taken

    def expect(self, text: str) -> None:
        if self.take(text) is None:
            raise self.error(f"expected {text!r}, found {self.token.text!r}")

    def sum(self) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error(f"more than {_DEEPEST} brackets within each other")
        found = self.product()
        while sign := self.take("+", "-"):
            found = Apply("add" if sign == "+" else "sub", (found, self.product()))
        self.depth -= 1
        return found

    def product(self) -> Expression:
        found = self.signed()
        while sign := self.take("*", "/"):
            found = Apply("mul" if sign == "*" else "div", (found, self.signed()))
        return found

    def signed(self) -> Expression:
        signs = 0
        while self.take("-"):
            signs += 1
        found = self.power()
        if isinstance(found, Number):
            return Number(-found.value) if signs % 2 else found
        return Apply("neg", (found,)) if signs % 2 else found

    def power(self) -> Expression:
        found = self.atom()
        if self.take("**"):
            exponent = self.token
            if exponent.text not in _POWERS:
                raise self.error(f"the exponent is 2 or 3, found {exponent.text!r}")
            self.token = self._next()
            return Apply(_POWERS[exponent.text], (found,))
        return found

    def atom(self) -> Expression:
        token = self.token
        if token.kind == "number":
            if not math.isfinite(float(token.text)):
                raise self.error(f"{token.text} is no finite number")
            self.token = self._next()
            return Number(float(token.text))
        if token.kind == "name":
            return self.named()
        if self.take("("):
            found = self.sum()
            self.expect(")")
            return found
        raise self.error(f"expected a number, x, beta or a function, found {token.text!r}")

    def named(self) -> Expression:
        token = self.token
        if _VARIABLE.fullmatch(token.text):
            self.token = self._next()
            return Variable(token.text)
        if token.text not in _NAMED:
            near = difflib.get_close_matches(token.text, [*_NAMED, "x", "beta"], n=3, cutoff=0.5)
            known = f"the nearest are {', '.join(near)}" if near else f"known are x, beta, {', '.join(_NAMED)}"
            raise self.error(f"there is no function {token.text!r}; {known}")
        self.token = self._next()
        self.expect("(")
        arguments = [self.sum()]
        while self.take(","):
            arguments.append(self.sum())
        self.expect(")")
        arity = _NAMED[token.text].arity
        if len(arguments) != arity:
            raise self.error(f"{token.text} takes {arity} arguments, found {len(arguments)}", token.column)
        return Apply(token.text, tuple(arguments))


def text_of(expression: Expression) -> str:
    """Write an expression so that `parse` gives the same tree.

    >>> text_of(parse("x * (x + 1)**2"))
    'x*(x+1)**2'
    """
    return _written(expression, 0)


def _written(node: Expression, binding: int) -> str:
    """Text of a node in a place that binds this strongly: 1 sum, 2 product, 3 sign, 4 power."""
    if isinstance(node, Number):
        text = f"{node.value:.17g}" if float(f"{node.value:g}") != node.value else f"{node.value:g}"
        return f"({text})" if node.value < 0 and binding > 1 else text
    if isinstance(node, Variable):
        return node.name
    if node.function in _INFIX:
        sign, own = _INFIX[node.function]
        left, right = node.arguments
        text = f"{_written(left, own)}{sign}{_written(right, own + 1)}"
        return f"({text})" if binding > own else text
    if node.function == "neg":
        text = f"-{_written(node.arguments[0], 3)}"
        return f"({text})" if binding > 1 else text
    if node.function in ("square", "cube"):
        text = f"{_written(node.arguments[0], 5)}**{2 if node.function == 'square' else 3}"
        return f"({text})" if binding > 4 else text
    return f"{node.function}({', '.join(_written(a, 0) for a in node.arguments)})"
