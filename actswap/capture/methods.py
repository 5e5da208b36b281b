"""The Python functions that a module runs, and how other ones take their place.

A module runs methods of its class, and methods that are set on the instance (`m.forward = m.fused`, the hooks of
accelerate, the forwards of kernel hubs). `methods_of` lists both by the name under which the module holds them.
`install_methods` gives one module other methods: as a subclass made for it alone, and, for every attribute of the
instance that holds the old function, as a new bound method.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from actswap.capture.origin import BASE, Origin, subclass
from actswap.errors import CaptureError

_EXCHANGED = "_actswap_exchanged"
_PLAIN = frozenset((nn.Module, object))


def functions_named(owner: nn.Module, name: str) -> list[Any]:
    """Return the functions that `owner` holds under a name: that of its class, then one set on the instance."""
    found = [inspect.getattr_static(type(owner), name, None), _function_in(vars(owner).get(name), owner)]
    return [function for function in found if function is not None]


def _function_in(held: Any, owner: nn.Module) -> Any:
    """The function inside a bound method of the owner, or inside a partial that passes the owner first."""
    if isinstance(held, MethodType) and held.__self__ is owner:
        return held.__func__
    if isinstance(held, functools.partial) and held.args and held.args[0] is owner:
        return held.func
    return None


def innermost(function: Any) -> FunctionType | None:
    """Return the function that decorators made with functools.wraps stand around."""
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
        function = innermost(_function_in(held, owner))
        if function is not None and function.__code__ is code:
            return name
    return None


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
            function = innermost(_function_in(held, owner))
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


def install_methods(module: nn.Module, members: Mapping[str, Any], origin: Origin) -> None:
    """Give `module` other methods or properties, as a subclass of its class made for it alone."""
    install_functions(module, members, {}, origin)


def install_functions(
    module: nn.Module, members: Mapping[str, Any], exchanged: Mapping[FunctionType, FunctionType], origin: Origin
) -> None:
    """As `install_methods`; and attributes of the instance that hold a key of `exchanged` hold its value afterwards."""
    module.__class__ = subclass(type(module), {**members, _EXCHANGED: dict(exchanged)}, origin)
    _exchange(module, exchanged)


def uninstall_methods(module: nn.Module) -> bool:
    """Undo `install_methods`; return whether there was anything to undo."""
    kind = type(module)
    if BASE not in vars(kind):
        return False
    module.__class__ = vars(kind)[BASE]
    _exchange(module, {new: old for old, new in vars(kind).get(_EXCHANGED, {}).items()})
    return True


def _exchange(module: nn.Module, functions: Mapping[Any, Any]) -> None:
    """Let the attributes of the instance that hold a key of `functions` hold its value instead."""
    for name, held in list(vars(module).items()):
        new = functions.get(_hashable(_function_in(held, module)))
        if new is None:
            continue
        if isinstance(held, MethodType):
            vars(module)[name] = MethodType(new, module)
        else:
            made = functools.partial(new, *held.args, **held.keywords)
            made.__dict__.update(held.__dict__)
            vars(module)[name] = made


def _hashable(function: Any) -> Any:
    return function if isinstance(function, FunctionType) else None


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
