"""The two files of a bundle, `plan.json` and `model.safetensors`: read and checked; no model is needed.

docs/bundle-format.md specifies the format. Nothing in a bundle can run: the plan is checked data, and the weights are
safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actswap.errors import LoadError, first_line
from actswap.io.base_note import Base
from actswap.io.plan_check import check_plan
from actswap.io.strict_json import read_json
from actswap.io.tensor_file import read_tensors

SCHEMA = 1
PLAN, WEIGHTS = "plan.json", "model.safetensors"
_LARGEST_PLAN = 64 << 20
_DOCUMENT = {"actswap": str, "torch": str, "pair": str, "base": dict, "plan": dict, "report": dict}
_DIGEST_LENGTH = 64  # hexadecimal digits of a pair; bundles of earlier versions have random pairs of 32 digits
_PAIR = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")


def pair_of(plan: Mapping[str, Any], tensors: Mapping[str, Tensor], alias: Mapping[str, str]) -> str:
    """Return the digest of the plan and of all tensors; both files of a bundle hold it, so that they are a pair."""
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
    digest.update(json.dumps(dict(alias), sort_keys=True).encode())
    for name in sorted(tensors):
        if name in alias:
            continue
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checked(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the document and the tensors of a bundle or adapter whose two files belong together.

    Raises:
        LoadError: they are damaged, or of an unknown version.
    """
    document = read(folder)
    tensors, metadata = weights_of(folder, document["pair"])
    check_plan(document["plan"], sum(tensor.numel() for tensor in tensors.values()), str(folder / PLAN))
    alias = json.loads(metadata.get("alias", "{}"))
    if len(document["pair"]) == _DIGEST_LENGTH and pair_of(document["plan"], tensors, alias) != document["pair"]:
        raise LoadError(
            f"{folder} is damaged",
            why="its numbers or its plan are not the ones that were saved",
            fix="copy the bundle again, or convert again",
        )
    return document, tensors


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the checked content of a bundle's `plan.json`: schema, base, plan and report."""
    file = Path(path) / PLAN
    if not file.is_file():
        raise LoadError(
            f"{path} is not a bundle", why=f"it has no {PLAN}", fix="give a folder written by actswap convert"
        )
    if file.stat().st_size > _LARGEST_PLAN:
        raise LoadError(f"{file} is larger than {_LARGEST_PLAN >> 20} MiB", fix="convert the base model again")
    try:
        data = file.read_bytes()
    except OSError as problem:
        raise LoadError(f"{file} cannot be read", why=first_line(problem), fix="check its permissions") from None
    document = read_json(data, file, fix="convert the base model again")
    if not isinstance(document, dict) or not isinstance(document.get("plan"), dict):
        raise LoadError(f"{file} is not a plan", why="it holds no object named plan", fix="convert again")
    if document.get("schema") != SCHEMA or isinstance(document["schema"], bool):
        raise LoadError(
            f"{file} has schema {str(document.get('schema'))[:40]!r}; this actswap reads schema {SCHEMA}",
            fix="use the actswap that wrote it (its version stands in the file), or convert again",
        )
    for key, kind in _DOCUMENT.items():
        if not isinstance(document.get(key), kind):
            raise LoadError(f"{key} in {file} is not valid", why=f"it must be a {kind.__name__}", fix="convert again")
    for key in ("heads", "adapter"):
        if not isinstance(document.get(key, {}), dict):
            raise LoadError(f"{key} in {file} is not valid", why="it must be a dict", fix="convert again")
    unknown = sorted(set(document) - set(_DOCUMENT) - {"schema", "heads", "adapter"})
    if unknown or not _PAIR.fullmatch(document["pair"]):
        what = f"the key {unknown[0][:40]!r}" if unknown else "a pair that is no digest"
        raise LoadError(f"{file} holds {what}", why="no actswap wrote it", fix="convert the base model again")
    return document


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of a bundle by name; no model is needed.

    Raises:
        LoadError: the file is missing or damaged.
    """
    return read_tensors(Path(path) / WEIGHTS)[0]


def read_base(path: str | os.PathLike[str]) -> Base:
    """Return the note on the base model of a bundle; a file name with a folder in it is refused."""
    note = read(path)["base"]
    known = {field.name for field in fields(Base)}
    if not set(note) <= known or not all(isinstance(v, str | None) for v in note.values()):
        raise LoadError(
            f"base in {path} is not valid", why=f"it holds {', '.join(sorted(known))}, as texts", fix="convert again"
        )
    base = Base(**note)
    if base.file is not None and (base.file in ("", ".", "..") or any(c in base.file for c in "/\\\0")):
        raise LoadError(
            f"the bundle {path} names its base as {base.file[:80]!r}",
            why="a base is a file name without folders",
            fix="do not trust this bundle; give the base yourself with --base FILE",
        )
    return base


def weights_of(folder: Path, pair: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the weights that belong to a plan: `model.safetensors`, or those of an overwrite that was cut short."""
    staged = folder / f"model.{pair}.safetensors"
    if (folder / WEIGHTS).is_file() or not staged.is_file():
        tensors, metadata = read_tensors(folder / WEIGHTS)
        if metadata.get("pair") == pair:
            return tensors, metadata
    if staged.is_file():
        tensors, metadata = read_tensors(staged)
        if metadata.get("pair") == pair:
            return tensors, metadata
    raise LoadError(
        f"the two files of {folder} do not belong together",
        why="one of them was copied from elsewhere",
        fix="convert again, or copy both files of one bundle",
    )
