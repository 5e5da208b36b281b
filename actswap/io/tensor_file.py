"""Tensors in a safetensors file, with a table of the names that share one: the same tensors give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from actswap.errors import LoadError, first_line
from actswap.io.state import state_of
from actswap.plan import tool_version


def write_tensors(
    tensors: dict[str, Tensor], alias: Mapping[str, str], file: Path, metadata: Mapping[str, str]
) -> None:
    """Write tensors.

    Args:
        tensors: each distinct tensor once.
        alias: other names of these tensors: name -> name in `tensors`.
        file: the file.
        metadata: texts to keep beside them.
    """
    save_file(tensors, file, {"format": "pt", "actswap": tool_version(), "alias": json.dumps(alias), **metadata})
    _sort_header(file)


def write_weights(model: nn.Module, file: Path, metadata: Mapping[str, str]) -> None:
    """Write the state of any model as safetensors; `alias` in the metadata names shared tensors."""
    state = state_of(model)
    if state is not None:
        write_tensors(*state, file, metadata)


def _sort_header(file: Path) -> None:
    """Sort the metadata, so that the same model gives the same bytes: safetensors writes it in random order."""
    with file.open("r+b") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        if len(text) <= length:  # longer only if safetensors has changed how it writes headers
            handle.seek(8)
            handle.write(text.ljust(length))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file under all their names, and its metadata.

    Raises:
        LoadError: the file is missing or damaged.
    """
    if file.exists() and not file.is_file():
        raise LoadError(f"{file} is no file but a folder, a device, a pipe or a socket", fix="copy the bundle again")
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = dict(handle.metadata() or {})
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        alias = json.loads(metadata.get("alias", "{}"))
        tensors.update({name: tensors[of] for name, of in alias.items()})
    except FileNotFoundError:
        raise LoadError(f"{file} is missing", fix="copy the whole bundle folder") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise LoadError(f"{file} is damaged", why=first_line(problem), fix="copy the bundle again") from None
    return tensors, metadata
