"""What a checkpoint holds under its keys, and which of its networks or weights are taken.

A checkpoint often holds several: `model` beside `ema`, `generator` beside `discriminator`, an optimizer, arguments. It
is looked at as a description (`pickles`), so that only the part that is taken is ever built. Objects that are built
already are looked at in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from actswap.errors import LoadError
from actswap.io import allowed
from actswap.io.pickles import Made, Name, Stored

# The order in which the toolkits themselves take: averaged weights before trained ones (timm, ultralytics, RT-DETR,
# DiT, BasicSR, StyleGAN), then the usual names, then the half of a pair that is used after training.
_AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_model", "ema_model_state_dict", "params_ema", "g_ema", "G_ema")
_USUAL = (
    *("state_dict", "model_state_dict", "model", "model_state", "network_weights", "net", "network", "module"),
    *("params", "weights"),
)
_OF_A_PAIR = ("generator", "netG", "G", "teacher")
_ORDER = _AVERAGED + _USUAL + _OF_A_PAIR
_NO_NETWORK = ("optim", "scheduler", "scaler", "rng", "callback", "loops", "criterion", "loss")
_DEPTH = 3
_DEEPEST = 60  # modules inside modules
_SHOWN = 12
# Wrappers of whole networks, and the name of the network inside.
_WRAPPERS = {
    ("torch.optim.swa_utils", "AveragedModel"): "module",
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("timm.utils.model_ema", "ModelEma"): "ema",
    ("timm.utils.model_ema", "ModelEmaV2"): "module",
    ("timm.utils.model_ema", "ModelEmaV3"): "module",
}
_TABLES = {"OrderedDict", "defaultdict", "dict", "FrozenDict", "AttributeDict", "DictConfig", "EasyDict"}


@dataclass(frozen=True)
class Taken:
    """What was taken of a file.

    Attributes:
        value: a network, or a table of weights; a description of one as long as the file is not built.
        key: where it stood, as in `model` or `ema.module`; "" if it is the whole content.
        note: what the file holds and why this was taken, "" if there was nothing to choose.
    """

    value: Any
    key: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Entry:
    key: str
    value: Any
    said: str


def take(content: Any, key: str | None, name: str) -> Taken | None:
    """Choose the network or the weights of a checkpoint.

    Args:
        content: what the file holds, as objects or as a description.
        key: the key that the user asked for, with dots between nested ones.
        name: the file, for messages.

    Returns:
        What is taken; None if there is nothing to take.

    Raises:
        LoadError: the key does not exist, or there are several and no usual name among them.
    """
    found = list(_entries(content, "", 0))
    taken = _asked_for(found, key, content, name) if key is not None else _usual(found, name)
    return None if taken is None else _without_wrapper(taken)


def _without_wrapper(taken: Taken) -> Taken:
    """Take the network out of a wrapper: an average, a compiled or a distributed module."""
    value, notes = taken.value, [taken.note] if taken.note else []
    while (inside := _inside(value)) is not None:
        kind = value.what.name if isinstance(value, Made) else type(value).__name__
        notes.append(f"took the network inside {kind}")
        value = inside
    return Taken(value, taken.key, "; ".join(notes))


def _inside(value: Any) -> Any:
    """Return the network inside a wrapper, None if the value is no wrapper."""
    described = isinstance(value, Made)
    kind = (value.what.module, value.what.name) if described else (type(value).__module__, type(value).__name__)
    if kind not in _WRAPPERS:
        return None
    if described and not isinstance(value.state, dict):  # torch.compile's is made by a call
        inside = value.args[0] if value.args else None
    else:
        own = value.state if described else vars(value)
        inside = (_table(own.get("_modules")) or {}).get(_WRAPPERS[kind])
    return inside if is_network(inside) else None


def _usual(found: Sequence[_Entry], name: str) -> Taken | None:
    """Take the only entry, or the one that the toolkits take."""
    if not found:
        return None
    if len(found) == 1:
        (only,) = found
        return Taken(only.value, only.key)
    ranked = sorted(found, key=_rank)
    if _rank(ranked[0]) == _LAST:
        listed = "; ".join(f"{e.key}: {e.said}" for e in found[:_SHOWN])
        raise LoadError(
            f"{name} holds several networks, and none has a usual name",
            why=listed,
            fix=f"say which one is meant: --key {found[0].key} (in Python: key={found[0].key!r})",
            add=f"--key {found[0].key}",
        )
    chosen = ranked[0]
    others = ", ".join(f"{e.key} ({e.said})" for e in found if e is not chosen)
    averaged = chosen.key.partition(".")[0] in _AVERAGED
    why = ", as the toolkits do, which take averaged weights first" if averaged else ""
    return Taken(
        chosen.value, chosen.key, f"took {chosen.key} ({chosen.said}){why}; beside it: {others}; --key chooses"
    )


def listing(content: Any) -> str:
    """Return in words what a file holds, key by key."""
    table = _table(content)
    if table is None:
        return _kind(content)
    if not table:
        return "an empty dict"
    shown = [f"{key} ({_kind(value)})" for key, value in list(table.items())[:_SHOWN]]
    more = f" and {len(table) - _SHOWN} more" if len(table) > _SHOWN else ""
    return f"a dict of {', '.join(shown)}{more}"


def state_of(value: Any) -> dict[str, Any]:
    """Return the weights of a network by name; of a described network their descriptions, without building a class."""
    if isinstance(value, nn.Module):
        return dict(value.state_dict())
    return dict(_state(value, "", 0))


def _state(value: Made, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST or not isinstance(value.state, dict):
        return
    hidden = value.state.get("_non_persistent_buffers_set", ())
    if isinstance(hidden, Made):
        hidden = hidden.args[0] if hidden.args and isinstance(hidden.args[0], (list, tuple)) else ()
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (_table(value.state.get(kind)) or {}).items():
            if _is_tensor(tensor) and (kind == "_parameters" or name not in hidden):
                yield f"{prefix}{name}", tensor
    for name, module in (_table(value.state.get("_modules")) or {}).items():
        if is_network(module):
            yield from _state(module, f"{prefix}{name}.", depth + 1)


def weights(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a table by name; what is no tensor, as a count, is left out."""
    return {str(name): v for name, v in value.items() if isinstance(v, Tensor)} if isinstance(value, Mapping) else {}


_LAST = 2 * len(_ORDER)


def _rank(entry: _Entry) -> int:
    """Return the place of a key in the order. A usual name at the top (`ema.module`) precedes a nested one."""
    top, last = entry.key.partition(".")[0], entry.key.rpartition(".")[2]
    if top in _ORDER:
        return _ORDER.index(top)
    return len(_ORDER) + _ORDER.index(last) if last in _ORDER else _LAST


def _asked_for(found: Sequence[_Entry], key: str, content: Any, name: str) -> Taken:
    exact = next((e for e in found if e.key == key), None)
    inside = [e for e in found if e.key.startswith(f"{key}.")]
    chosen = exact or (min(inside, key=_rank) if inside else None)
    if chosen is None:
        keys = ", ".join(e.key or "(the whole file)" for e in found) or "none"
        hint = next((e.key for e in found if e.key), "")
        raise LoadError(
            f"{name} holds no network and no weights under {key!r}",
            why=f"it holds {listing(content)}; networks and weights: {keys}",
            fix=f"--key {hint}" if hint else "leave out --key",
            add=f"--key {hint}" if hint else "",
        )
    return Taken(chosen.value, chosen.key, f"took {chosen.key} ({chosen.said}), as asked for")


def _entries(value: Any, key: str, depth: int) -> Iterator[_Entry]:
    """Yield the networks and weights of a content. Inside of either nothing further is looked for."""
    if is_network(value):
        yield _Entry(key, value, _kind(value))
        return
    table = _table(value)
    if table is None:
        table = _attributes(value)
    elif _is_weights(table):
        yield _Entry(key, value, _kind(value))
        return
    if table is None or depth == _DEPTH:
        return
    for name, inner in table.items():
        if isinstance(name, str) and not any(word in name.lower() for word in _NO_NETWORK):
            yield from _entries(inner, f"{key}.{name}" if key else name, depth + 1)


def _is_weights(table: Mapping[Any, Any]) -> bool:
    """True for a table of tensors by name. Between them may stand the extra state of a module, but no other table."""
    if not all(isinstance(name, str) for name in table) or not any(_is_tensor(v) for v in table.values()):
        return False
    return not any(is_network(v) or (_table(v) and not name.endswith("_extra_state")) for name, v in table.items())


def _is_tensor(value: Any) -> bool:
    if isinstance(value, Made):
        return (value.what.module, value.what.name) in allowed.TENSORS
    return isinstance(value, Tensor)


def is_network(value: Any) -> bool:
    """True for a module, and for the description of one."""
    if isinstance(value, Made):
        filled = isinstance(value.state, dict) and {"_modules", "_parameters"} <= value.state.keys()
        return filled or _inside(value) is not None
    return isinstance(value, nn.Module)


def _table(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (list, tuple)) and value and any(isinstance(v, (Mapping, Made, nn.Module)) for v in value):
        return {str(i): v for i, v in enumerate(value)}
    if not isinstance(value, Made) or value.what.name not in _TABLES:
        return None
    pairs = dict(value.pairs)
    listed = value.args[0] if value.args and value.what.name == "OrderedDict" else ()
    if isinstance(listed, list):
        pairs.update((p[0], p[1]) for p in listed if isinstance(p, (list, tuple)) and len(p) == 2)
    return pairs


def _attributes(value: Any) -> Mapping[Any, Any] | None:
    """Return the attributes of an object that is no network and may hold one, as fastai's Learner does."""
    if isinstance(value, Made):
        return value.state if isinstance(value.state, dict) and not _is_tensor(value) else None
    plain = value is None or isinstance(value, (bool, int, float, complex, str, bytes, Tensor, type))
    return None if plain or not hasattr(value, "__dict__") else vars(value)


def _kind(value: Any) -> str:
    """Say in a few words what a value is."""
    if isinstance(value, Made) and is_network(value):
        return f"a network, {value.what.name}"
    if isinstance(value, nn.Module):
        return f"a network, {type(value).__name__}"
    if _is_tensor(value):
        return "a tensor"
    table = _table(value)
    if table is not None:
        tensors = sum(_is_tensor(v) for v in table.values())
        return f"{tensors} tensors" if tensors and _is_weights(table) else f"a dict of {len(table)}"
    if isinstance(value, Made):
        return str(value.what)
    if isinstance(value, (Name, Stored)):
        return str(value) if isinstance(value, Name) else "a storage"
    return type(value).__name__ if value is not None else "None"


__all__ = ["Taken", "is_network", "listing", "state_of", "take", "weights"]
