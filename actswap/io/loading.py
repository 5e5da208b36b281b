"""Load a model from a file of any usual kind; nothing of the file runs before it is checked."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actswap.capture.quiet import quiet
from actswap.errors import LoadError, first_line
from actswap.io.allowed import is_under
from actswap.io.checkpoint import read_checkpoint, read_legacy
from actswap.io.exported import load_exported
from actswap.io.folders import INDEX, is_model_folder, load_folder, read_shards
from actswap.io.model_source import build_model, check_library_source, from_current_folder, is_library_source

_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "ema", "net", "weights")
_SAFER = "save the weights (torch.save(model.state_dict(), 'weights.pt')) and give --model package.module:factory"


@dataclass(frozen=True)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        module: the model, in eval mode, on the CPU.
        kind: `pickle`, `state_dict`, `safetensors`, `exported`, `folder` or `bundle`.
        source: the path, and the `--model` text if one was needed.
    """

    module: nn.Module
    kind: str
    source: str


def load_model(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    allow: Sequence[str] = (),
    trust_pickle: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> LoadedModel:
    """Load a model file of any supported kind.

    Args:
        path: `.pt2`, `.safetensors` or the `.safetensors.index.json` of its shards, a file of torch.save (whole module
            or state dict), a folder of transformers or timm (`config.json` and safetensors), or a bundle folder.
        model: how to build the module for a state dict: `torchvision:resnet50`,
            `timm:resnet18?num_classes=10` or `package.module:factory`.
        allow: packages whose classes a pickle may use, beside torch, torchvision, timm and transformers.
        trust_pickle: load a pickle without any check. It can run any program.
        base: file of the model that a bundle was made from, if the bundle's own note does not find it.

    Returns:
        The model, its kind and its source.

    Raises:
        LoadError: the file cannot be read or is refused; the message says what works.
    """
    path = Path(path)
    if path.is_dir() and is_model_folder(path):
        with _as_load_error(path):
            return LoadedModel(load_folder(path), "folder", str(path))
    if path.is_dir():
        return _load_bundle(path, model=model, allow=allow, trust_pickle=trust_pickle, base=base)
    if not path.exists():
        raise LoadError(f"there is no file {path}", fix="give the path of a model file or of a bundle folder")
    kind = _sniff(path)
    source = f"{path} with {model}" if model else str(path)
    with _as_load_error(path):
        if kind == "exported":
            return LoadedModel(load_exported(path), kind, source)
        if kind == "safetensors":
            from safetensors.torch import load_file

            content: Any = read_shards(path) if path.name.endswith(INDEX) else load_file(path)
        else:
            content = _unpickle(path, allow, trust_pickle, legacy=kind == "legacy")
    if isinstance(content, Mapping) and isinstance(content.get("model"), nn.Module):
        content = content["model"]
    if isinstance(content, nn.Module):
        return LoadedModel(content.eval(), "pickle", str(path))
    state = _state_dict(content, path)
    if model is None:
        raise LoadError(
            f"{path} holds weights ({len(state)} tensors), not a model",
            why="a state dict does not say how the network is built",
            fix=f"actswap scan {path} --model torchvision:resnet50 (or timm:NAME, or package.module:factory)",
        )
    return LoadedModel(_fill(build_model(model), state, path, model), _weights_kind(kind), source)


def _weights_kind(kind: str) -> str:
    return "safetensors" if kind == "safetensors" else "state_dict"


def _sniff(path: Path) -> str:
    """Tell the kind of a file from its content: `exported`, `safetensors`, `zip` or `legacy`."""
    if path.name.endswith(INDEX):
        return "safetensors"
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise LoadError(f"{path} is empty", fix="save the model again")
    if head[:4] == b"PK\x03\x04":
        try:
            names = {name.partition("/")[2] for name in zipfile.ZipFile(path).namelist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise LoadError(
                f"{path} is damaged",
                why="it begins like a file of torch.save but its end is missing (a truncated copy?)",
                fix="copy or save the file again",
            ) from None
        if "archive_format" in names or "models/model.json" in names:
            return "exported"
        if "constants.pkl" in names:
            raise LoadError(
                f"{path} is a TorchScript file",
                why="TorchScript hides the Python modules that actswap changes, and torch.jit is deprecated",
                fix="save the weights, torch.save(model.state_dict(), 'weights.pt'), and give --model",
            )
        if "data.pkl" in names:
            return "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "safetensors"
    if path.suffix == ".safetensors":
        raise LoadError(f"{path} is not a safetensors file", why="its header is damaged", fix="copy it again")
    if head[:1] == b"\x80":
        return "legacy"
    if path.suffix == ".onnx":
        raise LoadError(
            f"{path} is an ONNX file",
            why="actswap changes PyTorch models",
            fix="start from the PyTorch model",
        )
    raise LoadError(
        f"{path} is not a model file that actswap knows",
        why="it is no zip of torch.save or torch.export.save, no safetensors file and no pickle",
        fix="give a .pt2, a .safetensors, a file of torch.save, or a folder of transformers, timm or actswap",
    )


@contextmanager
def _as_load_error(path: Path) -> Any:
    """Turn any exception that torch raises on a damaged or hostile file into one LoadError."""
    try:
        yield
    except LoadError as problem:
        raise LoadError(problem.what, where=problem.where or str(path), why=problem.why, fix=problem.fix) from None
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as problem:
        raise LoadError(
            f"{path} cannot be read",
            why=first_line(problem),
            fix="check that the file is complete; " + _SAFER,
        ) from problem


def _unpickle(path: Path, allow: Sequence[str], trust_pickle: bool, *, legacy: bool) -> Any:
    if trust_pickle:
        with from_current_folder(), quiet():
            return torch.load(path, map_location="cpu", weights_only=False)
    if legacy:
        return read_legacy(path)
    with from_current_folder():
        return read_checkpoint(path, allow)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the weights in a checkpoint under the usual keys, and drop the prefix that DataParallel adds."""
    for key in _WEIGHT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise LoadError(
            f"{path} holds neither a model nor weights",
            why=f"it holds a {type(content).__name__}",
            fix=_SAFER,
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path, spec: str) -> nn.Module:
    own = module.state_dict()
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    given = {own[name].data_ptr() for name in own if name in state and own[name].numel()}  # tied weights are saved once
    missing = [
        name
        for name in own
        if name not in state and own[name].data_ptr() not in given and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in own]
    if shapes or missing or unexpected:
        rows = [
            f"{label} {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            for label, names in (("missing:", missing), ("not in the model:", unexpected), ("shape:", shapes))
            if names
        ]
        raise LoadError(
            f"the weights of {path} do not fit {spec}",
            why="; ".join(rows),
            fix=f"name what was saved, with its options: --model '{spec.partition('?')[0]}?num_classes=10'",
        )
    module.load_state_dict(state, strict=False)
    return module.eval()


def _load_bundle(
    path: Path,
    *,
    model: str | None,
    allow: Sequence[str],
    trust_pickle: bool,
    base: str | os.PathLike[str] | None,
) -> LoadedModel:
    """Load a bundle onto its base: `base`, `model`, or the file that the bundle names."""
    from actswap.io import bundle

    note = bundle.read_base(path)
    if model is None and note.model is not None:
        model = noted_source(note.model, path, allow)
    found = base if base is not None else bundle.find_base(path, note)
    if found is not None:
        plain = load_model(found, model=model, allow=allow, trust_pickle=trust_pickle).module
    elif model is not None:
        plain = build_model(model)
    else:
        raise LoadError(
            f"the bundle {path} needs the model it was made from",
            why=f"its base {note.file!r} was not found beside it, or has changed"
            if note.file
            else "it names no base file",
            fix=f"actswap show {path}, then give --base FILE or --model package.module:factory",
        )
    return LoadedModel(bundle.load(path, plain).eval(), "bundle", str(path))


def noted_source(text: str, path: str | os.PathLike[str], allow: Sequence[str]) -> str:
    """Return the text by which a bundle's base is built, if it is of a known library or the user allowed its package.

    Args:
        text: the text in the bundle.
        path: the bundle, for the message.
        allow: packages that the user trusts.

    Returns:
        The text: a network of torchvision or timm, or code of a package in `allow`.

    Raises:
        LoadError: it names code of another package, which is not imported.
    """
    if is_library_source(text):
        return check_library_source(text, f"the base of {path}")
    package = text.partition(":")[0]
    if is_under(package, allow):
        return text
    raise LoadError(
        f"the bundle {path} says that its base is built by {text[:80]!r}",
        why="that is code of a package, and a file alone does not get to run it",
        fix=f"if you trust it: --allow {package.partition('.')[0][:80]}, or --model {text[:80]}",
    )


__all__ = ["LoadedModel", "build_model", "load_model", "noted_source"]
