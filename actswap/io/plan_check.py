"""The strict schema of a plan in a file: the dataclasses of `actswap.plan` and `actswap.sites` are the schema.

A plan comes from whoever wrote the file. Before anything of it is built, each key must be a field of its dataclass,
each value must have the field's type, and each size must fit the weights that lie beside the plan. A message names the
key by its path: `plan.choices[3].site.channels`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from actswap.capture.arguments import Arguments
from actswap.capture.rewrite import Rewrite
from actswap.errors import LoadError
from actswap.fit.histogram import Histogram
from actswap.io.expressions import is_plain_tree
from actswap.plan import Choice, Island, Plan
from actswap.sites import Site, Source, Start

MAX_TEXT = 1 << 16
MAX_DEPTH = 64
_FIX = "do not trust this bundle; convert the base model again"
_LEAVES = ("free", "value", "torch")


def check_plan(plan: Any, numbers: int, where: str) -> None:
    """Check a plan that was read from JSON.

    Args:
        plan: the JSON data.
        numbers: how many numbers the weights beside the plan hold; no channel count may be larger.
        where: the file, for messages.

    Raises:
        LoadError: names the key, by its path, and what is wrong with its value.
    """
    depth, earlier = 0, plan
    while isinstance(earlier, dict) and earlier.get("before") is not None:
        earlier, depth = earlier["before"], depth + 1
        if depth > MAX_DEPTH:
            raise LoadError(f"the plan of {where} holds more than {MAX_DEPTH} earlier plans", fix=_FIX)
    _Check(numbers, where).record(Plan, plan, "plan")
    while plan is not None:
        _check_once(plan, where)
        plan = plan.get("before")


def _check_once(plan: Any, where: str) -> None:
    """Refuse a plan that replaces one site twice: thousands of replacements inside each other would take minutes."""
    seen: set[tuple[str, str]] = set()
    for i, choice in enumerate(plan["choices"]):
        for what, text in (("path", choice["path"]), ("site.name", choice["site"]["name"])):
            if (what, text) in seen:
                raise LoadError(f"plan.choices[{i}].{what} in {where} is {_shown(text)}, twice", fix=_FIX)
            seen.add((what, text))


@dataclasses.dataclass(frozen=True)
class _Left:
    """A site that is left, in its JSON form."""

    site: Site
    reason: str


class _Check:
    def __init__(self, numbers: int, where: str) -> None:
        self.numbers, self.where = numbers, where

    def record(self, kind: Any, data: Any, key: str) -> None:
        """Check an object against a dataclass."""
        self.expect(isinstance(data, dict), data, key, "an object")
        hints = _hints(kind)
        for name, value in data.items():
            self.expect(name in hints, name, f"{key}, a key", f"one of {', '.join(hints)}")
            self.value(hints[name], value, f"{key}.{name}")
        for item in dataclasses.fields(kind):
            missing = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            self.expect(item.name in data or not missing, None, f"{key}.{item.name}", "given")

    def value(self, kind: Any, data: Any, key: str) -> None:
        """Check a value against a type hint."""
        origin, inside = typing.get_origin(kind), typing.get_args(kind)
        name = key.rpartition(".")[2]
        if kind in _SPECIAL:
            _SPECIAL[kind](self, data, key)
        elif origin in (typing.Union, types.UnionType):
            self.alternatives(inside, data, key)
        elif origin is typing.Literal:
            self.expect(data in inside, data, key, f"one of {', '.join(map(str, inside))}")
        elif origin is tuple and inside[-1] is Ellipsis:
            self.expect(isinstance(data, list), data, key, "a list")
            for i, item in enumerate(data):
                self.value(inside[0], item, f"{key}[{i}]")
        elif origin is tuple:
            self.expect(isinstance(data, list) and len(data) == len(inside), data, key, f"a list of {len(inside)}")
            for i, item in enumerate(data):
                self.value(inside[i], item, f"{key}[{i}]")
        elif origin is not None and issubclass(origin, Mapping):
            self.expect(isinstance(data, dict), data, key, "an object")
            for word, item in data.items():
                self.expect(len(word) <= MAX_TEXT, word, key, "short keys")
                self.value(inside[1], item, f"{key}.{word[:40]}")
        elif dataclasses.is_dataclass(kind):
            self.record(kind, data, key)
        elif kind is Any:
            self.plain(data, key, 0)
        elif kind is str:
            self.expect(isinstance(data, str) and len(data) <= MAX_TEXT, data, key, "a text")
        elif kind is int:
            self.whole(data, name, key)
        elif kind is float:
            fits = isinstance(data, (int, float)) and not isinstance(data, bool)
            self.expect(fits and abs(data) < 1e300 and math.isfinite(data), data, key, "a number")
        elif kind is bool:
            self.expect(isinstance(data, bool), data, key, "true or false")
        else:
            self.expect(isinstance(data, list), data, key, "a list of numbers")
            for i, item in enumerate(data):
                self.value(float, item, f"{key}[{i}]")

    def alternatives(self, kinds: tuple[Any, ...], data: Any, key: str) -> None:
        """Check a value that may have one of several types."""
        if data is None and type(None) in kinds:
            return
        others = [kind for kind in kinds if kind is not type(None)]
        if len(others) > 1:
            listed = typing.get_origin(others[-1]) is tuple and isinstance(data, list)
            others = [others[-1] if listed else others[0]]
        self.value(others[0], data, key)

    def whole(self, data: Any, name: str, key: str) -> None:
        """Check a whole number; a channel count also against the weights."""
        self.expect(type(data) is int and abs(data) < 1 << 53, data, key, "a whole number")
        if name == "channels":
            self.expect(0 < data <= self.numbers, data, key, f"at most {self.numbers}, the numbers of its weights")
        elif name != "count" and name != "excluded":  # statistics are no sizes
            self.expect(abs(data) <= max(self.numbers, 1 << 20), data, key, f"at most {max(self.numbers, 1 << 20)}")

    def plain(self, data: Any, key: str, depth: int) -> None:
        """Check plain JSON data of an option."""
        self.expect(depth < 8, data, key, "nested less deep")
        if isinstance(data, list):
            for i, item in enumerate(data):
                self.plain(item, f"{key}[{i}]", depth + 1)
        elif isinstance(data, dict):
            for word, item in data.items():
                self.plain(item, f"{key}.{word[:40]}", depth + 1)
        elif isinstance(data, str):
            self.value(str, data, key)
        elif type(data) is int:
            self.whole(data, "", key)
        elif isinstance(data, float):
            self.value(float, data, key)

    def source(self, data: Any, key: str) -> None:
        """Check a source: its kind, and its parameters by name."""
        self.expect(isinstance(data, dict) and "kind" in data, data, key, "an object with a kind")
        for name, value in data.items():
            self.value(_SOURCE.get(name, float | tuple[float, ...]), value, f"{key}.{name[:40]}")

    def arguments(self, data: Any, key: str) -> None:
        """Check the arguments that a forward is traced with."""
        self.expect(isinstance(data, dict) and set(data) == {"spec", "leaves"}, data, key, "spec and leaves")
        spec, leaves = data["spec"], data["leaves"]
        if not (isinstance(spec, str) and is_plain_tree(spec)):
            raise LoadError(f"{key}.spec in {self.where} is a tree of another type", why=_shown(spec), fix=_FIX)
        self.expect(isinstance(leaves, list), leaves, f"{key}.leaves", "a list")
        for i, leaf in enumerate(leaves):
            at = f"{key}.leaves[{i}]"
            self.expect(isinstance(leaf, dict) and len(leaf) == 1, leaf, at, "an object of one key")
            ((name, value),) = leaf.items()
            self.expect(name in _LEAVES, name, at, f"one of {', '.join(_LEAVES)}")
            self.expect(not isinstance(value, (list, dict)), value, at, "a plain value")
            self.plain(value, at, 0)

    def expect(self, holds: bool, data: Any, key: str, wanted: str) -> None:
        """Raise LoadError that names the key, unless `holds`."""
        if not holds:
            raise LoadError(f"{key} in {self.where} is {_shown(data)}", why=f"it must be {wanted}", fix=_FIX)


_SOURCE: dict[str, Any] = {"kind": str, "formula": str, "trained": tuple[tuple[str, str], ...]}  # other keys: constants
_SPECIAL: dict[Any, Any] = {Source: _Check.source, Arguments: _Check.arguments}


@cache
def _hints(kind: Any) -> dict[str, Any]:
    names = {c.__name__: c for c in (Arguments, Choice, Histogram, Island, Plan, Rewrite, Site, Source, Start)}
    hints = typing.get_type_hints(kind, None, names)
    return {**hints, "left": tuple[_Left, ...]} if kind is Plan else hints


def _shown(data: Any) -> str:
    if isinstance(data, int) and abs(data) >= 1 << 63:
        return "a number of more than 64 bits"
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
