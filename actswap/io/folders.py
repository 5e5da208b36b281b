"""Model folders as the libraries save them: a configuration, and safetensors in one file or in shards.

The library that wrote the folder builds the model: `transformers` or `timm`. Only safetensors are read, code that a
folder brings along is never run, and nothing is looked up elsewhere.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from actswap.errors import LoadError
from actswap.io.torchvision_import import import_library

CONFIG = "config.json"
INDEX = ".safetensors.index.json"
_WEIGHTS = ("model.safetensors", f"model{INDEX}")
_FIX = "save it again with model.save_pretrained(folder), or give the weights file and --model package.module:factory"


def is_model_folder(path: Path) -> bool:
    """True for a folder with a configuration of transformers or timm."""
    return (path / CONFIG).is_file()


def weights_file(folder: Path) -> Path:
    """The file that holds the weights of a folder, or lists their shards.

    Raises:
        LoadError: there is none; pickled weights are not read from folders.
    """
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise LoadError(f"{folder} has no {_WEIGHTS[0]}", why="weights of a folder are read as safetensors", fix=_FIX)
    return found


def load_folder(folder: Path) -> nn.Module:
    """Build the model that a folder describes, with its weights, in eval mode and its own precision.

    Raises:
        LoadError: the configuration names no model of transformers or timm, or the weights do not fit.
    """
    weights_file(folder)
    config = _read_json(folder / CONFIG)
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return _of_transformers(folder, names[0])
    if isinstance(config.get("architecture"), str):
        return _of_timm(folder)
    raise LoadError(
        f"{folder / CONFIG} names no model",
        why="it has neither transformers' `architectures` nor timm's `architecture`",
        fix=_FIX,
    )


def shards(index: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each file that an index lists, with the names of its tensors.

    Raises:
        LoadError: it is no index, or names a file outside its own folder, or one that is missing.
    """
    listed = _read_json(index).get("weight_map")
    if not isinstance(listed, Mapping) or not listed or not all(isinstance(v, str) for v in listed.values()):
        raise LoadError(f"{index} lists no weights", why="it has no weight_map of file names", fix=_FIX)
    for file in dict.fromkeys(listed.values()):
        if file in ("", ".", "..") or any(c in file for c in "/\\\0"):
            raise LoadError(f"{index} names {file!r}", why="a shard is a file name without folders", fix=_FIX)
        if not (index.parent / file).is_file():
            raise LoadError(f"{index.parent / file} is missing", why=f"{index.name} lists it", fix="copy all shards")
        yield index.parent / file, [name for name, where in listed.items() if where == file]


def read_shards(index: Path) -> dict[str, Tensor]:
    """Read all tensors that an index lists; they stay in the mapped files until they are used."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file, names in shards(index):
        content = load_file(file)
        lost = [name for name in names if name not in content]
        if lost:
            raise LoadError(f"{file} does not hold {lost[0]}", why=f"{index.name} lists it there", fix="copy it again")
        found |= {name: content[name] for name in names}
    return found


def _of_transformers(folder: Path, name: str) -> nn.Module:
    kind: Any = getattr(importlib.import_module("transformers"), name, None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise LoadError(
            f"transformers has no {name}",
            why="the code that a folder brings along is not run",
            fix="build it yourself: --model package.module:factory",
        )
    model: nn.Module = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype="auto"
    )
    return model.eval()


def _of_timm(folder: Path) -> nn.Module:
    import_library("torchvision")
    timm = importlib.import_module("timm")
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise LoadError(f"{path} is damaged", why=str(problem)[:200], fix="copy it again") from None
    if not isinstance(found, dict):
        raise LoadError(f"{path} is damaged", why=f"it holds a {type(found).__name__}", fix="copy it again")
    return found
