"""Reading a TOML table into a dataclass: unknown keys, missing keys and wrong types are all collected."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def read_table(cls: type[T], table: Any, where: str, problems: list[str]) -> T | None:
    """Build `cls` from a parsed TOML table.

    Args:
        cls: a dataclass; its fields are the allowed keys, those without default the required ones.
        table: what the TOML parser gave.
        where: name of the table in messages, e.g. `tune.schedules.morph`; empty for the file itself.
        problems: one sentence is appended for each problem.

    Returns:
        The dataclass, or None if anything in the table is wrong.
    """
    if not isinstance(table, Mapping):
        problems.append(f"{where}: must be a table, is {_shown(table)}")
        return None
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = _hints(cls)  # type: ignore[arg-type] # a class has a hash
    count = len(problems)
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known: {', '.join(fields)}"
            problems.append(f"{_at(where, key)}: unknown key{hint}")
    values = {}
    for name, item in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], _at(where, name), problems)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            problems.append(f"{_at(where, name)}: is missing")
    return cls(**values) if len(problems) == count else None


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _value(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _value(kind, value, where, problems)
    if dataclasses.is_dataclass(kind):
        return read_table(typing.cast(type, kind), value, where, problems)
    if origin is tuple:
        if not isinstance(value, list):
            problems.append(f"{where}: must be a list, is {_shown(value)}")
            return ()
        return tuple(_value(arguments[0], item, f"{where}[{i}]", problems) for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            problems.append(f"{where}: must be a table, is {_shown(value)}")
            return {}
        return {key: _value(arguments[1], item, f"{where}.{key}", problems) for key, item in value.items()}
    if kind is Any:
        return value
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        problems.append(f"{where}: must be {_NAMES[kind]}, is {_shown(value)}")
        return value
    return float(value) if kind is float else value


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)
    return str(text) if len(str(text)) <= 60 else f"{str(text)[:57]}..."
