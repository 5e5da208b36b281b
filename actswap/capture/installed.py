"""Give one module other methods, take them away again, and let such a module be copied and pickled.

The methods stand in a subclass made for the module alone; attributes of the instance that held an old function
(`m.forward = m.fused`) hold a new bound method.

Its class was made for it alone, so a pickle cannot name it, and must not hold its code. The pickle names the user's own
class and keeps a text: what the methods were made from. Whoever installs methods gives that as their `Origin`; its
`again` makes the methods anew when the pickle is read. Copies within the process share the class.
"""

from __future__ import annotations

import copy
import functools
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from actswap.capture.methods import function_in

BASE, EXCHANGED, _ORIGIN = "_actswap_base", "_actswap_exchanged", "_actswap_origin"


@dataclass(frozen=True)
class Origin:
    """What installed methods were made from.

    Attributes:
        data: returns it as JSON data; called when the module is pickled.
        again: a function of a module, named in the pickle: from the user's class and the text, an empty instance with
            methods made anew.
    """

    data: Callable[[], Mapping[str, Any]]
    again: Callable[[type[nn.Module], str], nn.Module]


def subclass(base: type[nn.Module], members: Mapping[str, Any], origin: Origin) -> type[nn.Module]:
    """Return a subclass with other members, which looks like its base and whose instances can be pickled."""
    namespace = {**members, "__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    namespace |= {BASE: base, _ORIGIN: origin, "__reduce_ex__": _reduce, "__setstate__": _setstate}
    if not hasattr(base, "__deepcopy__"):
        namespace["__deepcopy__"] = _deepcopy
    if not hasattr(base, "__copy__"):
        namespace["__copy__"] = _copy
    return type(base.__name__, (base,), namespace)


def written_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module as the user wrote it.

    >>> written_class(nn.ReLU())
    <class 'torch.nn.modules.activation.ReLU'>
    """
    kinds = _layers(type(module))
    return vars(kinds[-1])[BASE] if kinds else type(module)


def _layers(kind: type) -> list[type]:
    return [k for k in kind.__mro__ if BASE in vars(k)]


def _plain(module: nn.Module) -> tuple[Any, ...]:
    """What the user's own class says of an instance: how it is made, and its state."""
    return written_class(module).__reduce_ex__(module, 4)  # type: ignore[return-value]


def _reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    kinds = _layers(type(module))
    made, args, *rest = _plain(module)
    if type(module) is not kinds[0] or getattr(made, "__name__", "") != "__newobj__" or args != (type(module),):
        raise pickle.PicklingError(
            f"this converted {type(module).__name__} cannot be pickled: its class makes instances in a way of its own "
            "(__reduce__, __getnewargs__, or a class made around it); save it with actswap.save(model, 'folder')"
        )
    layers = [dict(vars(kind)[_ORIGIN].data()) for kind in reversed(kinds)]
    if rest and isinstance(rest[0], dict):  # the functions of the user's class, which a pickle can name
        for kind in kinds:
            rest[0] = _with_exchanged(module, rest[0], {new: old for old, new in _exchanged(kind).items()})
    return (vars(kinds[0])[_ORIGIN].again, (written_class(module), json.dumps(layers)), *rest)


def _setstate(module: nn.Module, state: Any) -> None:
    written_class(module).__setstate__(module, state)  # type: ignore[no-untyped-call]
    for kind in reversed(_layers(type(module))):
        _exchange(module, _exchanged(kind))


def _deepcopy(module: nn.Module, memo: dict[int, Any]) -> Any:
    return copy._reconstruct(module, memo, *_plain(module))  # type: ignore[attr-defined]


def _copy(module: nn.Module) -> Any:
    return copy._reconstruct(module, None, *_plain(module))  # type: ignore[attr-defined]


def install_methods(module: nn.Module, members: Mapping[str, Any], origin: Origin) -> None:
    """Give `module` other methods or properties, as a subclass of its class made for it alone."""
    install_functions(module, members, {}, origin)


def install_functions(
    module: nn.Module, members: Mapping[str, Any], exchanged: Mapping[FunctionType, FunctionType], origin: Origin
) -> None:
    """As `install_methods`; and attributes of the instance that hold a key of `exchanged` hold its value afterwards."""
    module.__class__ = subclass(type(module), {**members, EXCHANGED: dict(exchanged)}, origin)
    _exchange(module, exchanged)


def uninstall_methods(module: nn.Module) -> bool:
    """Undo `install_methods`; return whether there was anything to undo."""
    kind = type(module)
    if BASE not in vars(kind):
        return False
    module.__class__ = vars(kind)[BASE]
    _exchange(module, {new: old for old, new in _exchanged(kind).items()})
    return True


def _exchanged(kind: type) -> Mapping[Any, Any]:
    found: Mapping[Any, Any] = vars(kind).get(EXCHANGED, {})
    return found


def _exchange(module: nn.Module, functions: Mapping[Any, Any]) -> None:
    """Let the attributes of the instance that hold a key of `functions` hold its value instead."""
    vars(module).update(_with_exchanged(module, vars(module), functions))


def _with_exchanged(module: nn.Module, attributes: Mapping[str, Any], functions: Mapping[Any, Any]) -> dict[str, Any]:
    found = dict(attributes)
    for name, held in attributes.items():
        new = functions.get(_hashable(function_in(held, module)))
        if new is None:
            continue
        if isinstance(held, MethodType):
            found[name] = MethodType(new, module)
        else:
            made = functools.partial(new, *held.args, **held.keywords)
            made.__dict__.update(held.__dict__)
            found[name] = made
    return found


def _hashable(function: Any) -> Any:
    return function if isinstance(function, FunctionType) else None
