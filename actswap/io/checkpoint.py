"""Files of torch.save: whole modules and weights, as zip files or in the format before torch 1.6.

The pickle inside is first read as a description (`pickles`). A description that names only tensors and containers is
weights: torch's own loader reads the file with `weights_only=True`, and nothing is added to what it trusts. If a
description names modules, they are built here from the names that `allowed` lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actswap.capture.quiet import quiet
from actswap.errors import LoadError, first_line
from actswap.io import allowed, rebuild, tensor_layout
from actswap.io.archive import check_zip
from actswap.io.contents import Taken, is_network, listing, state_of, take
from actswap.io.pickles import Made, Name, Stored, describe, parts

_RECORDS = re.compile(
    r"data\.pkl|data/\w+|version|byteorder|\.format_version|\.storage_alignment|\.data/(serialization_id|version)"
)
_FIX = "save the weights (torch.save(model.state_dict(), 'weights.pt')) and give --model package.module:factory"
_TRUST = _FIX + "; or --trust-pickle, which runs whatever the file says"
_SLACK = 64 << 20
_QUANTIZED = re.compile(r"\bquantized\b(?!.*\bfunctional_modules\b)|torchao\.|bitsandbytes")


def read_checkpoint(path: Path, allow: Sequence[str] = (), key: str | None = None, only_weights: bool = False) -> Taken:
    """Load the network or the weights of a zip file of torch.save; the rest of the file is not built.

    Args:
        path: the file.
        allow: packages whose classes the user trusts.
        key: the key of what is taken, None for the usual one.
        only_weights: of a module, take the weights; its classes need not be known then.

    Returns:
        A module, or weights, and what the file holds beside it.

    Raises:
        LoadError: what is taken names something that is not allowed, or there is nothing to take. Nothing of the file
            has run.
    """
    names = check_zip(path)
    odd = next((name for name in names if not _RECORDS.fullmatch(name)), None)
    if odd is not None or "data.pkl" not in names:
        raise LoadError(f"{path} holds {odd!r}, which torch.save does not write", fix=_FIX)
    reader = torch._C.PyTorchFileReader(str(path))
    if "byteorder" in names and reader.get_record("byteorder") != b"little":
        raise LoadError(f"{path} was written on a machine of another byte order", fix=_FIX)
    described = describe(reader.get_record("data.pkl"), path.stat().st_size)
    sizes = {name.removeprefix("data/"): reader.get_record_size(name) for name in names if name.startswith("data/")}
    _check_storages(described, sizes)
    _refuse_quantized(described, path)
    if is_weights_only(described):
        content = _load_weights(described, path, path.stat().st_size)
        found = take(content, key, str(path))
        if found is None:
            raise nothing_in(content, path)
        return found
    taken = take(described, key, str(path))
    if taken is None and not isinstance(described, Made):
        raise nothing_in(described, path)

    def storage(key: str) -> torch.UntypedStorage:
        found: Any = reader.get_storage_from_record(f"data/{key}", sizes[key], torch.uint8)
        bytes_: torch.UntypedStorage = found._typed_storage()._untyped_storage
        return bytes_

    taken = taken or Taken(described)
    if only_weights and is_network(taken.value):
        taken = replace(taken, value=state_of(taken.value))
    return replace(taken, value=rebuild.Rebuild(storage, path.stat().st_size, allow).whole(taken.value))


def nothing_in(content: Any, path: Path) -> LoadError:
    """Return the error for a file without a network and without weights: it says what the file does hold."""
    return LoadError(f"{path} holds neither a model nor weights", why=f"it holds {listing(content)}", fix=_FIX)


def _refuse_quantized(described: Any, path: Path) -> None:
    """Say that a model is quantised: its layers hold packed integers, which no activation can be trained with."""
    for part in parts(described):
        if isinstance(part, Name) and (_QUANTIZED.search(part.module) or part.name == "_rebuild_qtensor"):
            raise LoadError(
                f"{path} holds a quantised model",
                why=f"it names {part}: weights of integers, which cannot be converted or trained",
                fix="convert the float model that it was made from, then quantise the converted one",
            )


def read_legacy(path: Path) -> Any:
    """Load weights from a file of torch.save before torch 1.6: five pickles, then the numbers.

    Raises:
        LoadError: the file holds more than weights.
    """
    try:
        with path.open("rb") as file:
            magic, version, system, described, _keys = (describe(file) for _ in range(5))
            if not isinstance(magic, int) or version != 1001 or not isinstance(system, dict):
                raise LoadError(f"{path} is a pickle, but not one of torch.save", fix=_TRUST)
            if not is_weights_only(described):
                first = next(p for p in parts(described) if isinstance(p, Name) and not _is_weight(p))
                raise LoadError(f"it names {first}", fix=_TRUST)
            stored = {str(s.key[2:3]): tensor_layout.storage_bytes(s) for s in _storages(described)}
            if sum(stored.values()) > path.stat().st_size:
                raise LoadError("its tensors are larger than the file", fix=_TRUST)
            return _load_weights(described, path, path.stat().st_size)
    except LoadError as problem:
        raise LoadError(
            f"{path} is an old-style pickle that holds more than weights", why=problem.what, fix=_TRUST
        ) from None


def read_weights(path: Path) -> Any:
    """Load a zip file of torch.save that may hold nothing but tensors and containers.

    Raises:
        LoadError: it holds more, or is damaged.
    """
    check_zip(path)
    reader = torch._C.PyTorchFileReader(str(path))
    return _load_weights(describe(reader.get_record("data.pkl"), path.stat().st_size), path, path.stat().st_size)


def check_weights(data: bytes) -> None:
    """Check the bytes of a torch.save file inside another file; it may hold nothing but tensors and containers.

    Raises:
        LoadError: names what is not allowed.
    """
    import io

    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(data))
        names = reader.get_all_records()
        pickled = reader.get_record("data.pkl")
        sizes = {n.removeprefix("data/"): reader.get_record_size(n) for n in names if n.startswith("data/")}
    except (RuntimeError, ValueError) as problem:
        raise LoadError("the tensors inside the file are damaged", why=first_line(problem), fix=_FIX) from None
    described = describe(pickled, len(data))
    if sum(sizes.values()) > len(data):
        raise LoadError("the tensors inside the file overlap or are compressed", fix=_FIX)
    _check_storages(described, sizes)
    _check_calls(described, len(data))


def is_weights_only(described: Any) -> bool:
    """Return True if a description names only tensors, their dtypes and plain containers."""
    return all(_is_weight(part) for part in parts(described) if isinstance(part, Name))


def _is_weight(name: Name) -> bool:
    if (name.module, name.name) in allowed.WEIGHTS_ONLY or str(name) in (
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
    ):
        return True
    if name.module in ("torch", "torch.storage"):
        dtype = vars(torch).get(name.name) if name.module == "torch" else None
        return name.name in allowed.STORAGES or name.name == "UntypedStorage" or isinstance(dtype, torch.dtype)
    return False


def _load_weights(described: Any, path: Path, size: int) -> Any:
    _check_calls(described, size)
    with quiet():
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_calls(described: Any, size: int) -> None:
    """Check every call that torch's own loader will make when it reads the described file."""
    left = 4 * size + _SLACK
    for part in parts(described):
        if isinstance(part, Name) and not _is_weight(part):
            raise LoadError(f"the file needs {part}, which is no part of weights", fix=_FIX)
        if not isinstance(part, Made):
            continue
        tensor_layout.check_call(part)
        if part.what.name == "_rebuild_from_type_v2":
            part = tensor_layout.tensor_with_attributes(part)
        if part.what.name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            dtype, storage, offset, shape, stride, _ = tensor_layout.tensor_layout(part)
            if (offset + tensor_layout.extent(shape, stride)) * dtype.itemsize > tensor_layout.storage_bytes(storage):
                raise LoadError("the file is refused: it holds a tensor that reaches beyond its storage", fix=_FIX)
            left -= torch.Size(shape).numel() * dtype.itemsize if 0 not in shape else 0
    if left < 0:
        raise LoadError("the file is refused: its tensors take far more memory than the file holds", fix=_FIX)


def _storages(described: Any) -> Iterator[Stored]:
    return (part for part in parts(described) if isinstance(part, Stored))


def _check_storages(described: Any, sizes: dict[str, int]) -> None:
    for storage in _storages(described):
        stated, key = tensor_layout.storage_bytes(storage), storage.key[2]
        if not isinstance(key, str) or sizes.get(key) != stated:
            raise LoadError(
                f"the file is refused: the tensor data {str(key)[:40]!r} are missing or of another size",
                fix="copy or save the file again",
            )
