"""The Python functions that a module runs.

A module runs methods of its class, and methods that are set on the instance (`m.forward = m.fused`, the hooks of
accelerate, the forwards of kernel hubs). `functions_named` lists both by the name under which the module holds them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from actswap.errors import CaptureError

_PLAIN = frozenset((nn.Module, object))


def functions_named(owner: nn.Module, name: str) -> list[Any]:
    """Return the functions that `owner` holds under a name: that of its class, then one set on the instance."""
    found = [inspect.getattr_static(type(owner), name, None), function_in(vars(owner).get(name), owner)]
    return [function for function in found if function is not None]


def function_in(held: Any, owner: nn.Module) -> Any:
    """Return the function inside a bound method of the owner, or inside a partial that passes the owner first."""
    if isinstance(held, MethodType) and held.__self__ is owner:
        return held.__func__
    if isinstance(held, functools.partial) and held.args and held.args[0] is owner:
        return held.func
    return None


def innermost(function: Any) -> FunctionType | None:
    """Return the function inside the decorators that were made with functools.wraps."""
    unwrapped = inspect.unwrap(function) if callable(function) else None
    return unwrapped if isinstance(unwrapped, FunctionType) else None


@functools.lru_cache(4096)
def _class_methods(kind: Any) -> Mapping[CodeType, str]:
    found: dict[CodeType, str] = {}
    overridden: set[str] = set()
    for base in kind.__mro__:
        if base in _PLAIN:
            continue
        for name, value in list(vars(base).items()):
            function = innermost(value)
            if function is not None and name not in overridden:
                found.setdefault(function.__code__, name)
            overridden.add(name)
    return found


def method_of_class(kind: type, code: CodeType) -> str | None:
    """Return the name under which a class holds the function with this code, None if it does not."""
    known: Any = kind
    return _class_methods(known).get(code)


def method_named(owner: nn.Module, code: CodeType) -> str | None:
    """Return the name under which `owner` holds the function with this code, None if it does not."""
    name = method_of_class(type(owner), code)
    if name is not None:
        return name
    for name, held in vars(owner).items():
        function = innermost(function_in(held, owner))
        if function is not None and function.__code__ is code:
            return name
    return None


def methods_of(owner: nn.Module) -> list[tuple[str, FunctionType]]:
    """Return the methods that the class of `owner` defines, without their decorators, by name."""
    kind: Any = type(owner)
    found = ((name, innermost(inspect.getattr_static(type(owner), name))) for name in _class_methods(kind).values())
    return [(name, function) for name, function in found if function is not None]


@functools.lru_cache(4096)
def nested_codes(code: CodeType) -> frozenset[CodeType]:
    """Return the codes of the functions, lambdas and comprehensions inside a function."""
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return frozenset(inner).union(*(nested_codes(c) for c in inner))


@functools.lru_cache(4096)
def _enclosing(kind: Any) -> Mapping[CodeType, CodeType]:
    return {inner: code for code in _class_methods(kind) for inner in nested_codes(code)}


def method_around(owner: nn.Module, code: CodeType) -> CodeType | None:
    """Return the code of the owner's method in whose source the function with this code is written."""
    kind: Any = type(owner)
    around = _enclosing(kind).get(code)
    if around is None:
        for held in vars(owner).values():
            function = innermost(function_in(held, owner))
            if function is not None and code in nested_codes(function.__code__):
                return function.__code__
    return around


def rewrapped(outer: Any, old: FunctionType, new: FunctionType) -> FunctionType:
    """Put `new` where the decorators of `outer` hold `old`.

    Raises:
        CaptureError: a decorator keeps it somewhere else than in its closure.
    """
    if outer is old:
        return new
    if not isinstance(outer, FunctionType) or not outer.__closure__:
        raise CaptureError(f"the decorator of {old.__qualname__} hides it")
    inner = outer.__wrapped__ if hasattr(outer, "__wrapped__") else old
    replaced = rewrapped(inner, old, new)
    cells = tuple(CellType(replaced) if _holds(c, inner) else c for c in outer.__closure__)
    if cells == outer.__closure__:
        raise CaptureError(f"the decorator of {old.__qualname__} hides it")
    made = FunctionType(outer.__code__, outer.__globals__, outer.__name__, outer.__defaults__, cells)
    made.__kwdefaults__ = outer.__kwdefaults__
    return functools.update_wrapper(made, replaced)  # type: ignore[return-value]


def _holds(cell: CellType, function: Any) -> bool:
    try:
        return cell.cell_contents is function
    except ValueError:  # an empty cell
        return False


def instance_forward(owner: nn.Module) -> str:
    """Return the name of a forward that is set on the instance, "" if the class's own runs.

    Examples:
        >>> from torch import nn
        >>> layer = nn.ReLU()
        >>> instance_forward(layer)
        ''
        >>> layer.forward = lambda x: x
        >>> instance_forward(layer)
        '<lambda>'
    """
    held = vars(owner).get("forward")
    return "" if held is None else str(getattr(held, "__qualname__", type(held).__name__)).rpartition(".")[2]
