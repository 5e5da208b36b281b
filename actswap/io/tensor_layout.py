"""Read how a pickle describes tensors: storage, offset, size and stride, all checked to be plain numbers."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import torch

from actswap.errors import LoadError
from actswap.io import allowed
from actswap.io.pickles import NOTHING, Made, Name, Stored

_FIX = "save the weights (torch.save(model.state_dict(), 'weights.pt')) and give --model package.module:factory"
TENSOR_NAMES = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")


def tensor_with_attributes(part: Made) -> Made:
    """Return the call that makes the tensor inside `_rebuild_from_type_v2(function, class, arguments, attributes)`."""
    if len(part.args) != 4:
        raise refused("a tensor of another form than torch writes")
    function, kind, args = part.args[:3]
    plain = kind in (Name("torch", "Tensor"), Name("torch.nn.parameter", "Parameter")) and isinstance(args, tuple)
    inner = isinstance(function, Name) and function.module == "torch._utils" and _pair(function) in allowed.TENSORS
    if not plain or not inner:
        raise refused("a tensor of another class")
    return Made(function, args, call=True)


def _pair(name: Name) -> tuple[str, str]:
    return name.module, name.name


def tensor_layout(part: Made) -> tuple[torch.dtype, Stored, int, tuple[int, ...], tuple[int, ...], bool]:
    """Return dtype, storage, offset, size, stride and whether it needs a gradient, all checked to be plain numbers."""
    name, args = part.what.name, part.args
    least, most = {"_rebuild_tensor": (4, 4), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8)}[name]
    if not least <= len(args) <= most or not isinstance(args[0], Stored):
        raise refused("a tensor of another form than torch writes")
    storage, offset, size, stride = args[:4]
    if isinstance(size, Made) and (size.what.module, size.what.name) == ("torch", "Size") and len(size.args) == 1:
        size = size.args[0]
    numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else ()
    if not numbers or len(size) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise refused("a tensor whose sizes are no plain numbers")
    if len(args) > 5 and not is_empty(args[5]):
        raise refused("a tensor with hooks")
    dtype: Any = storage_dtype(storage)
    if name.endswith("v3"):
        dtype = vars(torch).get(args[6].name) if isinstance(args[6], Name) and args[6].module == "torch" else None
    if not isinstance(dtype, torch.dtype):
        raise refused("a tensor without a dtype")
    return dtype, storage, offset, size, stride, flag(args[4]) if len(args) > 4 else False


def storage_dtype(storage: Stored) -> torch.dtype | None:
    """Return the dtype of a storage's class; None for storages without one."""
    kind = storage.key[1] if isinstance(storage.key, tuple) and len(storage.key) >= 5 else None
    if not isinstance(kind, Name):
        raise refused("a storage of another form than torch writes")
    if (kind.module, kind.name) == ("torch.storage", "UntypedStorage"):
        return None
    if kind.module not in ("torch", "torch.storage") or kind.name not in allowed.STORAGES:
        raise refused(f"a storage of class {kind}")
    found: torch.dtype = allowed.STORAGES[kind.name]
    return found


def storage_bytes(storage: Stored) -> int:
    """Return how many bytes a pickle says a storage has."""
    dtype, numel = storage_dtype(storage), storage.key[4]
    if storage.key[0] != "storage" or type(numel) is not int or not 0 <= numel < 1 << 48:
        raise refused("a storage of another form than torch writes")
    return numel * (1 if dtype is None else dtype.itemsize)


def storage_key(storage: Stored) -> str:
    """Return the name under which the file holds a storage."""
    storage_bytes(storage)
    key = storage.key[2]
    if not isinstance(key, str) or not re.fullmatch(r"\w{1,64}", key):
        raise refused(f"a storage named {str(key)[:40]!r}")
    return key


def extent(size: Sequence[int], stride: Sequence[int]) -> int:
    """Return how many elements a strided tensor spans, from its first to its last."""
    if 0 in size:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))


def numel(size: Sequence[int]) -> int:
    """Return how many elements a tensor has."""
    return functools.reduce(lambda a, b: a * b, size, 1)


def check_call(part: Made) -> None:
    """Check the arguments of a call in a file of weights; torch's own loader makes the call afterwards."""
    pair = (part.what.module, part.what.name)
    if pair not in allowed.WEIGHTS_ONLY or not part.call:
        raise refused(f"{part.what}, which is no part of weights")
    if part.what.name == "_rebuild_from_type_v2":
        inner = tensor_with_attributes(part)
        if inner.what.name in TENSOR_NAMES:
            tensor_layout(inner)
    elif part.what.name in TENSOR_NAMES:
        tensor_layout(part)
    elif pair in allowed.CONTAINERS and part.what.name not in ("OrderedDict", "Counter"):
        kinds = tuple(type(a) for a in part.args)
        if part.what.name == "bytearray" and kinds not in ((), (bytes,), (Made,)):
            raise refused("a bytearray made of a number")


def is_empty(hooks: Any) -> bool:
    """Return True for the hooks of a tensor that has none."""
    if isinstance(hooks, Made):
        return not hooks.args and not hooks.pairs and not hooks.items and hooks.state is NOTHING
    return hooks is None or hooks == {}


def flag(value: Any) -> bool:
    """Return a truth value unchanged; refuse anything else."""
    if type(value) is not bool:
        raise refused("a flag that is neither true nor false")
    return value


def refused(what: str) -> LoadError:
    """Return the error for content that torch.save never writes for a model of the known libraries."""
    return LoadError(
        f"the file is refused: {what}" if what.startswith("it ") else f"the file is refused: it holds {what}",
        why="torch.save of a model of torch, torchvision, timm or transformers does not write it",
        fix=_FIX,
    )
