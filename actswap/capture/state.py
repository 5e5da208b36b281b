"""Snapshot what a model keeps beside its weights, so that running or tracing it changes nothing.

A forward may count its calls, fill a cache, append to a list or update running statistics. `State` remembers the
buffers, attributes and containers (dicts, lists, sets, and plain objects such as a cache) of all modules, and restores
them. Parameters are not copied: a forward that trains the model is not undone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from actswap.errors import CaptureError

_LARGEST = 1 << 23  # elements; larger tensors are quantised weights rather than state, and would double the memory
_MOST = 4096  # entries; larger containers are data sets and vocabularies, and are not searched
_DEPTH = 4
_OWN = frozenset(nn.Module().__dict__) - {"_buffers", "_parameters", "_modules"}  # mode and hooks, nn.Module's own
_PLAIN = frozenset((type(None), bool, int, float, str))
_HOOKS = tuple(k for k, v in nn.Module().__dict__.items() if isinstance(v, dict) and k.endswith("_hooks"))
_OPAQUE = (type, FunctionType, MethodType, ModuleType, str, bytes, int, float, complex, torch.dtype, torch.device)
_FOREIGN = ("torch", "logging", "threading", "functools")
_MISSING = object()


class State:
    """A snapshot of the state of a module and its submodules, without the parameters."""

    def __init__(self, root: nn.Module) -> None:
        self._containers: list[tuple[str, Any, Any]] = []
        self._tensors: list[tuple[str, Tensor, int, Tensor]] = []
        seen: set[int] = set()
        self._hooks = [(d, dict(d)) for m in root.modules() for k in _HOOKS if (d := m.__dict__.get(k)) is not None]
        for name, module in root.named_modules():
            if not isinstance(module, (LazyModuleMixin, torch.jit.ScriptModule)):
                self._keep(name, module.__dict__, 0, seen)

    def _keep(self, name: str, item: Any, depth: int, seen: set[int]) -> None:
        if item is None or isinstance(item, _OPAQUE) or id(item) in seen or depth > _DEPTH:
            return
        seen.add(id(item))
        if isinstance(item, Tensor):
            small = item.numel() <= _LARGEST and not item.is_meta and not item.is_inference()
            if small and not isinstance(item, nn.Parameter):
                self._tensors.append((name, item, item._version, item.detach().clone()))
        elif isinstance(item, (dict, list, set, deque)):
            before = dict(item) if isinstance(item, dict) else set(item) if isinstance(item, set) else list(item)
            self._containers.append((name, item, before))
            if len(item) <= _MOST:
                for key, value in _entries(before):
                    if not _is_plain(value) and (depth or key not in _OWN):
                        self._keep(_below(name, key), value, depth + 1, seen)
        elif isinstance(item, tuple) and len(item) <= _MOST:
            for key, value in _entries(item):
                if not _is_plain(value):
                    self._keep(_below(name, key), value, depth + 1, seen)
        elif not isinstance(item, nn.Module) and type(item).__module__.partition(".")[0] not in _FOREIGN:
            self._keep(name, getattr(item, "__dict__", None), depth + 1, seen)

    def changes(self) -> list[str]:
        """Return the names of the attributes, entries and tensors that have changed."""
        changed = [_below(name, key) for name, item, before in self._containers for key in _differing(item, before)]
        return changed + [name for name, tensor, version, was in self._tensors if _changed(tensor, version, was)]

    def restore(self) -> None:
        """Restore everything except the training mode; the caller restores that.

        Hooks that a forward installed are removed. transformers marks with a flag that it has installed hooks; if only
        the flag were restored, the next forward would install them twice.
        """
        for hooks, kept in self._hooks:
            if len(hooks) != len(kept) or hooks.keys() != kept.keys():
                hooks.clear()
                hooks.update(kept)
        for _, item, before in self._containers:
            if not _differing(item, before):
                continue
            if isinstance(item, dict):
                for key in [k for k in item if k not in before and k not in _OWN]:
                    dict.__delitem__(item, key)
                for key in [k for k in before if k not in _OWN]:
                    dict.__setitem__(item, key, before[key])
            else:
                item.clear()
                item.update(before) if isinstance(item, set) else item.extend(before)
        with torch.no_grad():
            for _, tensor, version, before in self._tensors:
                if _changed(tensor, version, before):
                    (tensor if tensor.shape == before.shape else tensor.resize_(before.shape)).copy_(before)


def refuse_uninitialized(model: nn.Module) -> None:
    """Refuse a model with lazy layers that have not run yet.

    Raises:
        CaptureError: with the name of the first of them.
    """
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(t):
            layer = model.get_submodule(name.rpartition(".")[0])
            raise CaptureError(
                f"{name.rpartition('.')[0] or type(model).__name__} has no weights yet",
                why=f"a {type(layer).__name__} makes them in its first run",
                fix="run the model once before: model(x)",
            )


def _is_plain(value: Any) -> bool:
    """Return True for a value, or a tuple of values, that cannot change: most attributes are."""
    kind = type(value)
    return kind in _PLAIN or (kind is tuple and all(type(v) in _PLAIN for v in value))


def _changed(tensor: Tensor, version: int, before: Tensor) -> bool:
    """Return True if a tensor was written to. Batch normalisation updates its statistics without a new version."""
    if tensor._version != version or tensor.shape != before.shape:
        return True
    return tensor.layout is torch.strided and not torch.equal(tensor, before)


def _below(name: str, key: Any) -> str:
    return name if key in ("_buffers", "_modules", "_parameters") else f"{name}.{key}" if name else str(key)


def _entries(item: Any) -> Iterator[tuple[Any, Any]]:
    return iter(item.items()) if isinstance(item, dict) else enumerate(item)


def _differing(item: Any, before: Any) -> list[Any]:
    """Return the keys at which a container has changed."""
    if isinstance(item, set):
        return sorted(map(str, item ^ before))
    if isinstance(item, dict):
        keys = (k for k in {**before, **item} if k not in _OWN)
        return [k for k in keys if item.get(k, _MISSING) is not before.get(k, _MISSING)]
    if len(item) != len(before):
        return [min(len(item), len(before))]
    return [i for i, (a, b) in enumerate(zip(item, before, strict=True)) if a is not b]
