"""Model folders as the libraries save them: a configuration, and safetensors in one file or in shards.

The library that wrote the folder builds the model: `transformers` or `timm`. Only safetensors are read. Code in the
folder is never run, and nothing is fetched.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from actswap.errors import LoadError
from actswap.io.torchvision_import import import_library, with_torchvision
from actswap.io.weight_names import Misfit, fill, not_fitting, refuse_converted

CONFIG = "config.json"
INDEX = ".safetensors.index.json"
_WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(\.(?P<variant>\w+))?\.safetensors(\.index(\.\w+)?\.json)?")
_ARCHITECTURE = re.compile(r"[a-z0-9]\w{0,99}")
_ARGUMENT = re.compile(r"[a-z]\w{0,60}")
_FETCHES = re.compile(r"pretrained|checkpoint|cache|url|file|hub|weights|features_only|scriptable|exportable|no_jit")
_COUNTS = re.compile(r"layers|depth|blocks|num_hidden|repeat|stages|n_layer\b")
_SLACK = 1 << 26
_FIX = "save it again with model.save_pretrained(folder), or give the weights file and --model package.module:factory"


def is_model_folder(path: Path) -> bool:
    """Return True for a folder with a configuration of transformers, diffusers or timm."""
    return (path / CONFIG).is_file()


def weights_file(folder: Path) -> Path:
    """Return the file that holds the weights of a folder, or lists their shards.

    Raises:
        LoadError: there is none; pickled weights are not read from folders.
    """
    files = sorted(f for f in folder.iterdir() if _WEIGHTS.fullmatch(f.name) and f.is_file())
    if not files:
        raise LoadError(
            f"{folder} has no model.safetensors", why="weights of a folder are read as safetensors", fix=_FIX
        )
    return min(files, key=lambda f: (bool(_variant(f)), len(f.name)))


def _variant(file: Path) -> str | None:
    """Return the precision in the name of a file of weights: `fp16` of `model.fp16.safetensors`."""
    found = _WEIGHTS.fullmatch(file.name)
    return found["variant"] if found and found["variant"] != "index" else None


def models_inside(folder: Path) -> list[Path]:
    """Return the model folders inside a folder, as those of a diffusers pipeline."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and is_model_folder(f))


def load_folder(folder: Path, drop: Sequence[str] = ()) -> nn.Module:
    """Build the model that a folder describes, with its weights, in eval mode and its own precision.

    Args:
        folder: the folder.
        drop: names of the weights, or of modules that they lie in, that are no part of the network.

    Raises:
        LoadError: the configuration names no model of transformers, diffusers or timm, or the weights do not fit: one
            is missing, or the network does not know one.
    """
    weights_file(folder)
    config = _read_json(folder / CONFIG)
    names = config.get("architectures")
    if config.get("quantization_config"):
        raise LoadError(
            f"{folder} holds a quantised model",
            why=f"its configuration has a quantization_config: {str(config['quantization_config'])[:60]}",
            fix="convert the float model that it was made from, then quantise the converted one",
        )
    if isinstance(names, list) and names and isinstance(names[0], str):
        return _of_library(folder, "transformers", names[0], config, drop)
    if isinstance(config.get("_class_name"), str):
        return _of_library(folder, "diffusers", config["_class_name"], config, drop)
    if isinstance(config.get("architecture"), str):
        return _of_timm(folder, config, drop)
    raise LoadError(
        f"{folder / CONFIG} names no model",
        why="it has neither transformers' `architectures`, nor diffusers' `_class_name`, nor timm's `architecture`",
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
    found: dict[str, Tensor] = {}
    for file, names in shards(index):
        content = load_file(file)
        lost = [name for name in names if name not in content]
        if lost:
            raise LoadError(f"{file} does not hold {lost[0]}", why=f"{index.name} lists it there", fix="copy it again")
        found |= {name: content[name] for name in names}
    return found


def _of_library(folder: Path, library: str, name: str, config: Mapping[str, Any], drop: Sequence[str]) -> nn.Module:
    """Let transformers or diffusers build the model, and look at what they found missing or too much."""
    if not name.isidentifier() or name.startswith("_"):
        raise LoadError(f"{folder / CONFIG} names the model {name[:80]!r}", why="that is no class", fix=_FIX)
    kind: Any = _class_of(library, name)
    if kind is None:
        raise LoadError(
            f"{library} has no model {name}",
            why="the code that a folder brings along is not run",
            fix="build it yourself: --model package.module:factory",
        )
    for extra in ("adapter_config.json", "adapter_model.bin"):
        if (folder / extra).exists():
            raise LoadError(f"{folder} holds {extra}", why="an adapter names another model to fetch", fix=_FIX)
    numbers, tensors = _stored(folder)
    _check_config(config, numbers, tensors, str(folder / CONFIG))
    given: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    if library == "transformers":
        settings = kind.config_class.from_pretrained(folder, local_files_only=True)
        given |= {"trust_remote_code": False, "dtype": "auto"}
    else:
        settings, given = config, {**given, "torch_dtype": _precision(folder)}
    with torch.device("meta"):  # no memory: only the number of parameters is asked for
        _check_size(kind(settings) if library == "transformers" else kind.from_config(settings), numbers, folder)
    if variant := _variant(weights_file(folder)):
        given["variant"] = variant
    model, info = kind.from_pretrained(folder, **given)
    _check_complete(model, info, folder, f"{library}'s {name}", drop)
    made: nn.Module = model
    return made.eval()


def _class_of(library: str, name: str) -> Any:
    """Return a class of models of a library, None if the name is something else."""
    found = with_torchvision(lambda: getattr(import_library(library), name, None))
    if not isinstance(found, type) or not issubclass(found, nn.Module) or not hasattr(found, "from_pretrained"):
        return None
    return found if library == "diffusers" or getattr(found, "config_class", None) is not None else None


def _check_complete(model: nn.Module, info: Mapping[str, Any], folder: Path, spec: str, drop: Sequence[str]) -> None:
    """Raise if a library filled a weight at random, or did not use one."""
    own = model.state_dict()
    unused = [n for n in info["unexpected_keys"] if not any(n == part or n.startswith(f"{part}.") for part in drop)]
    lost = Misfit(tuple(sorted(info["missing_keys"])), tuple(sorted(unused)))
    if lost:
        refuse_converted(lost.unexpected, str(folder))
        error = not_fitting(str(folder), spec, lost, own)
        fix = f"name the class that was saved in {CONFIG}, or save it again with model.save_pretrained(folder)"
        raise LoadError(error.what, why=error.why, fix=error.fix if error.add else fix, add=error.add)


def _precision(folder: Path) -> torch.dtype | None:
    """Return the precision of the first weights of a folder; diffusers changes them to float32 unless it is told."""
    weights = weights_file(folder)
    file = next(shards(weights))[0] if INDEX in weights.name else weights
    with safe_open(file, framework="pt") as handle:
        names = list(handle.keys())
        return handle.get_tensor(names[0]).dtype if names else None


def _of_timm(folder: Path, config: Mapping[str, Any], drop: Sequence[str]) -> nn.Module:
    """Build the network without timm's own loader, which follows addresses that a configuration may hold."""
    name = config["architecture"]
    options = dict(config.get("model_args") or {})
    for key in ("num_classes", "global_pool"):
        if key in config:
            options.setdefault(key, config[key])
    numbers, tensors = _stored(folder)
    _check_config(options, numbers, tensors, str(folder / CONFIG))
    refused = [key for key in options if not _ARGUMENT.fullmatch(key) or _FETCHES.search(key)]
    if not _ARCHITECTURE.fullmatch(name) or refused:
        what = f"the option {refused[0][:60]!r}" if refused else f"the network {name[:60]!r}"
        raise LoadError(f"{folder / CONFIG} asks for {what}", why="it does more than size a network of timm", fix=_FIX)
    timm = import_library("timm")
    with suppress(NotImplementedError, RuntimeError), torch.device("meta"):  # some networks compute with their sizes
        _check_size(timm.create_model(name, pretrained=False, **options), numbers, folder)
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    weights = weights_file(folder)
    state = read_shards(weights) if weights.name.endswith(INDEX) else load_file(weights)
    return fill(model, state, "", str(folder), f"timm:{name}", drop)[0]


def _stored(folder: Path) -> tuple[int, int]:
    """Return how many numbers and how many tensors the weights of a folder hold."""
    weights = weights_file(folder)
    files = [file for file, _ in shards(weights)] if weights.name.endswith(INDEX) else [weights]
    sizes = []
    for file in files:
        with safe_open(file, framework="pt") as handle:
            names = list(handle.keys())
            sizes += [math.prod(handle.get_slice(name).get_shape()) for name in names]
    return sum(sizes), len(sizes)


def _check_config(config: Mapping[str, Any], numbers: int, tensors: int, where: str, key: str = "") -> None:
    """Refuse a configuration that would fetch something, or size a model far beyond its weights.

    Args:
        config: the configuration, or a table inside it.
        numbers: how many numbers the weights hold; no size may be larger, from a million on.
        tensors: how many tensors they are; no count of layers may be larger, from 256 on.
        where: its file.
        key: the path of the table.
    """
    for name, value in config.items():
        path = f"{key}.{name}".lstrip(".")
        if isinstance(value, dict):
            _check_config(value, numbers, tensors, where, path)
        entries = value if isinstance(value, list) else [value]
        limit = max(tensors, 256) if _COUNTS.search(name) else max(numbers, 1 << 20)
        if any(isinstance(v, dict) for v in entries) and isinstance(value, list):
            _check_config({str(i): v for i, v in enumerate(entries)}, numbers, tensors, where, path)
        if any(isinstance(v, int) and abs(v) > limit for v in entries):
            shown = (
                str(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a number of more than 64 bits"
            )
            why = f"its weights are {tensors} tensors of {numbers} numbers in all"
            raise LoadError(f"{where} holds {path} = {shown[:60]}", why=why, fix=_FIX)
        fetches = name in ("quantization_config", "auto_map", "custom_pipelines") and key == ""
        fetches = (fetches and name != "auto_map") or (name.startswith("use_") and "pretrained" in name)
        outside = name.endswith("_implementation") or name in ("backbone", "backbone_kwargs")
        if (fetches and value) or (outside and isinstance(value, str) and not re.fullmatch(r"\w*", value)):
            raise LoadError(f"{where} holds {path} = {str(value)[:60]}", why="it would fetch or run more", fix=_FIX)


def _check_size(empty: nn.Module, numbers: int, folder: Path) -> None:
    size = sum(t.numel() for t in (*empty.parameters(), *empty.buffers()))
    if size > 4 * numbers + _SLACK:
        raise LoadError(
            f"{folder / CONFIG} describes a model of {size} numbers", why=f"its weights hold {numbers}", fix=_FIX
        )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise LoadError(f"{path} is damaged", why=str(problem)[:200], fix="copy it again") from None
    if not isinstance(found, dict):
        raise LoadError(f"{path} is damaged", why=f"it holds a {type(found).__name__}", fix="copy it again")
    return found
