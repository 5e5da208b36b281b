"""How a module with installed methods is copied and pickled.

Its class was made for it alone, so a pickle cannot name it, and must not hold its code. The pickle names the user's own
class and keeps a text: what the methods were made from. Whoever installs methods gives that as their `Origin`; its
`again` makes the methods anew when the pickle is read. Copies within the process share the class.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

BASE, _ORIGIN = "_actswap_base", "_actswap_origin"


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
    namespace |= {BASE: base, _ORIGIN: origin, "__reduce_ex__": _reduce}
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
    return (vars(kinds[0])[_ORIGIN].again, (written_class(module), json.dumps(layers)), *rest)


def _deepcopy(module: nn.Module, memo: dict[int, Any]) -> Any:
    return copy._reconstruct(module, memo, *_plain(module))  # type: ignore[attr-defined]


def _copy(module: nn.Module) -> Any:
    return copy._reconstruct(module, None, *_plain(module))  # type: ignore[attr-defined]
