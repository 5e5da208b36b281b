"""The grammars of the texts that torch evaluates when it reads an exported program.

torch hands sizes to sympy's parser and input guards to `exec`; both run any Python. Here each text is parsed by a
grammar of its own first. It knows whole numbers, names of symbols, and the functions and operators of sizes; there is
no attribute, no quoted text but a symbol's name, and no power but of a symbol to a small number.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_LENGTH = 4096
MAX_DEPTH = 32
_SIZE_TOKEN = re.compile(r"\s*(?:(-?\d{1,19})(?![\w.])|([A-Za-z]\w{0,39})|('[a-z]\w{0,15}')|([(),=]))")
_FUNCTIONS = """
Add Mul Max Min Mod FloorDiv CeilDiv CleanDiv PythonMod ModularIndexing IntTrueDiv FloatTrueDiv ToFloat TruncToInt
FloorToInt CeilToInt RoundToInt Identity Eq Ne Lt Le Gt Ge StrictLessThan LessThan StrictGreaterThan GreaterThan
Equality Unequality And Or Not Abs floor ceiling
"""
_POWERS = ("Pow", "PowByNatural")
_FACTS = frozenset(
    ["positive", "integer", "nonnegative", "real", "negative", "finite", "zero", "even", "odd", "nonzero"]
)
_CONSTANTS = frozenset(("true", "false"))


class _Tokens:
    """The tokens of a text, taken one by one."""

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self.tokens: list[str] = []
        at = 0
        text = text.rstrip()
        if len(text) > MAX_LENGTH:
            raise ValueError("too long")
        while at < len(text):
            match = pattern.match(text, at)
            if match is None:
                raise ValueError(f"unexpected {text[at : at + 10]!r}")
            self.tokens.append(match[0].strip())
            at = match.end()
        self.at = 0

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def expect(self, *wanted: str) -> str:
        found = self.take()
        if found not in wanted:
            raise ValueError(f"{wanted[0]} is missing")
        return found


def is_size(text: str) -> bool:
    """Return True for a size as torch.export writes it.

    >>> is_size("Mul(Integer(2), Symbol('s77', positive=True, integer=True))"), is_size("__import__('os')")
    (True, False)
    >>> is_size("Pow(Integer(9), Integer(9))")
    False
    """
    return _matches(_size, _SIZE_TOKEN, text)


def _matches(rule: object, pattern: re.Pattern[str], text: str) -> bool:
    try:
        tokens = _Tokens(pattern, text)
        rule(tokens, 0)  # type: ignore[operator]
        return tokens.next() == ""
    except ValueError:
        return False


def _size(tokens: _Tokens, depth: int) -> str:
    """Read `Function(size, ...)`, `Symbol('s0', fact=True)`, `Integer(2)`, a symbol or a number; return its head."""
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    head = tokens.take()
    if re.fullmatch(r"-?\d+", head) or head in _CONSTANTS or (re.fullmatch(r"[suz]\d{1,6}", head)):
        return head
    if head not in (*_FUNCTIONS.split(), *_POWERS, "Symbol", "Integer", "Rational"):
        raise ValueError(f"{head!r} is no function of sizes")
    tokens.expect("(")
    if head == "Symbol":
        if not tokens.take().startswith("'"):
            raise ValueError("a symbol without a name")
        while tokens.expect(",", ")") == ",":
            if tokens.take() not in _FACTS:
                raise ValueError("an unknown fact")
            tokens.expect("=")
            tokens.expect("True", "False")
        return head
    parts = [_argument(tokens, head, depth)]
    while tokens.expect(",", ")") == ",":
        parts.append(_argument(tokens, head, depth))
    if head in ("Integer", "Rational") and len(parts) != (1 if head == "Integer" else 2):
        raise ValueError("a number of another form")
    if head == "Rational" and parts[1] == "0":
        raise ValueError("a division by zero")
    if head in _POWERS and not (len(parts) == 2 and parts[0] == "Symbol" and parts[1] in ("-1", "2", "3", "4")):
        raise ValueError("a power of something else than a symbol")
    return head


def _argument(tokens: _Tokens, head: str, depth: int) -> str:
    if head in ("Integer", "Rational"):
        number = tokens.take()
        if not re.fullmatch(r"-?\d+", number):
            raise ValueError("no number")
        return number
    if head in _POWERS and tokens.next() == "Integer":
        tokens.take()
        tokens.expect("(")
        number = tokens.take()
        tokens.expect(")")
        return number
    return _size(tokens, depth + 1)


_GUARD_TOKEN = re.compile(
    r"\s*(?:L\['[A-Za-z_]\w{0,99}'\]|\.size\(\)\[\d{1,3}\]|\.stride\(\)\[\d{1,3}\]|\.storage_offset\(\)|\.dim\(\)"
    r"|\[\d{1,4}\]|\['[A-Za-z_]\w{0,99}'\]|\d{1,19}(?![\w.])|(?:Max|Min|Mod|and|or|not|True|False)\b"
    r"|//|[<>=!]=|[-+*%<>(),])"
)
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


def is_guard(text: str) -> bool:
    """Return True for a condition on the sizes of inputs, as torch.export writes it.

    >>> is_guard("(L['x'].size()[2] // 2) != 1"), is_guard("L['x'].__class__"), is_guard("9**9 > 1")
    (True, False, False)
    """
    return _matches(_condition, _GUARD_TOKEN, text)


def _condition(tokens: _Tokens, depth: int) -> None:
    """Read `not sum (comparison sum)* ((and | or) condition)*`."""
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    while True:
        while tokens.next() == "not":
            tokens.take()
        _sum(tokens, depth)
        while tokens.next() in _COMPARISONS:
            tokens.take()
            _sum(tokens, depth)
        if tokens.next() not in ("and", "or"):
            return
        tokens.take()


def _sum(tokens: _Tokens, depth: int) -> None:
    while True:
        while tokens.next() in ("-", "+"):
            tokens.take()
        _item(tokens, depth)
        if tokens.next() not in ("+", "-", "*", "//", "%"):
            return
        tokens.take()


def _item(tokens: _Tokens, depth: int) -> None:
    head = tokens.take()
    if head == "(":
        _condition(tokens, depth + 1)
        tokens.expect(")")
    elif head in ("Max", "Min", "Mod"):
        tokens.expect("(")
        _condition(tokens, depth + 1)
        while tokens.expect(",", ")") == ",":
            _condition(tokens, depth + 1)
    elif head.startswith("L["):
        while tokens.next().startswith(("[", ".")):
            tokens.take()
    elif not head.isdigit() and head not in ("True", "False"):
        raise ValueError(f"unexpected {head!r}")


_TREES = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}
_TREE_CONTEXT = re.compile(r"null|\[[\w\s\",.\-]*\]")
_MAX_TREE = 1 << 20


def is_plain_tree(text: str) -> bool:
    """Return True if a serialised pytree holds only tuples, lists and dicts. torch would import any other type.

    >>> is_plain_tree('[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]')
    True
    """
    try:
        protocol, spec = json.loads(text) if len(text) < _MAX_TREE else (0, {})
        waiting: list[Any] = [spec]
        while waiting:
            node = waiting.pop()
            if set(node) != {"type", "context", "children_spec"} or node["type"] not in _TREES:
                return False
            context = node["context"]
            if context is not None and not (isinstance(context, str) and _TREE_CONTEXT.fullmatch(context)):
                return False
            waiting.extend(node["children_spec"])
        return type(protocol) is int and protocol == 1
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
