"""Load a model from a file of any usual kind; nothing of the file runs before it is checked."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actswap.capture.quiet import quiet
from actswap.errors import LoadError, UsageError, first_line
from actswap.io.allowed import is_under
from actswap.io.checkpoint import nothing_in, read_checkpoint, read_legacy
from actswap.io.contents import Taken, is_network, state_of, take, weights
from actswap.io.exported import load_exported
from actswap.io.folders import INDEX, is_model_folder, load_folder, models_inside, read_shards, weights_file
from actswap.io.model_source import build_model, check_library_source, from_current_folder, is_library_source
from actswap.io.torchvision_import import with_torchvision
from actswap.io.weight_names import fill, refuse_converted

_SAFER = "save the weights (torch.save(model.state_dict(), 'weights.pt')) and give --model package.module:factory"


@dataclass(frozen=True)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        module: the model, in eval mode, on the CPU.
        kind: `pickle`, `state_dict`, `safetensors`, `exported`, `folder` or `bundle`.
        source: the path, and the `--model` text if one was needed.
        notes: what was chosen and changed on the way: which of several weights, which prefix, which precision.
    """

    module: nn.Module
    kind: str
    source: str
    notes: tuple[str, ...] = ()


def load_model(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    allow: Sequence[str] = (),
    trust_pickle: bool = False,
    base: str | os.PathLike[str] | None = None,
    key: str | None = None,
    prefix: str | None = None,
    drop: Sequence[str] = (),
    dtype: str | None = None,
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
        key: which of several networks or weights of a checkpoint: `model`, `state_dict_ema`, `models.generator`. By
            default the one that the toolkits take; `notes` says which.
        prefix: what stands before the names of the network in the file, as in `model.conv1.weight`. By default it is
            found: every name of the network must stand under it.
        drop: names of the file, or modules that they lie in, that are no part of the network: a head that it does not
            have. Anything else that does not fit is an error.
        dtype: the precision to load in: `float32`, `float16`, `bfloat16`; by default that of the file.

    Returns:
        The model, its kind and its source.

    Raises:
        LoadError: the file cannot be read or is refused; the message says what works.
    """
    path = Path(path)
    if path.is_dir() and is_model_folder(path):
        with _as_load_error(path):
            return _in(dtype, LoadedModel(load_folder(path, drop), "folder", str(path)))
    if path.is_dir() and not (path / "plan.json").exists() and (inside := models_inside(path)):
        raise LoadError(
            f"{path} holds {len(inside)} models, not one",
            why=f"it looks like a pipeline: {', '.join(f.name for f in inside)}",
            fix=f"give one of them: {inside[-1]}",
        )
    if path.is_dir():
        found = _load_bundle(
            path, model=model, allow=allow, trust_pickle=trust_pickle, base=base, key=key, prefix=prefix, drop=drop
        )
        return _in(dtype, found)
    if not path.exists():
        raise LoadError(f"there is no file {path}", fix="give the path of a model file or of a bundle folder")
    if not path.is_file():
        raise LoadError(f"{path} is no file but a device, a pipe or a socket", fix="give the path of a model file")
    kind = _sniff(path)
    source = f"{path} with {model}" if model else str(path)
    with _as_load_error(path):
        if kind == "exported":
            return _in(dtype, LoadedModel(load_exported(path), kind, source))
        taken = _read(path, kind, allow, trust_pickle, key, only_weights=model is not None)
    notes = (taken.note,) if taken.note else ()
    if isinstance(taken.value, nn.Module):
        return _in(dtype, LoadedModel(taken.value.eval(), "pickle", str(path), notes))
    state = weights(taken.value)
    if not state:
        raise nothing_in(taken.value, path)
    if model is None:
        refuse_converted(state, str(path))
        raise LoadError(
            f"{path} holds weights ({len(state)} tensors), not a model",
            why="a state dict does not say how the network is built",
            fix="say how: --model torchvision:resnet50 (or timm:NAME, or package.module:factory; in Python: model=...)",
            add="--model torchvision:resnet50",
        )
    module, renamed = fill(build_model(model), state, prefix, str(path), model, drop)
    return _in(dtype, LoadedModel(module, _weights_kind(kind), source, (*notes, *renamed)))


def _in(dtype: str | None, loaded: LoadedModel) -> LoadedModel:
    """Return a model in another precision."""
    if dtype is None:
        return loaded
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise UsageError(f"there is no precision {dtype!r}", fix="--dtype float32 (or float16, bfloat16, float64)")
    tensors = (*loaded.module.parameters(), *loaded.module.buffers())
    before = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()} - {dtype})
    note = (f"changed from {', '.join(before)} to {dtype}",) if before else ()
    return replace(loaded, module=loaded.module.to(kind), notes=(*loaded.notes, *note))


def load_weights(
    path: str | os.PathLike[str], *, key: str | None = None, trust_pickle: bool = False
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the weights of any file or model folder, also those of a whole pickled network; no class of it is built.

    Args:
        path: a checkpoint, a file of weights, or a folder with safetensors.
        key: which of several weights, None for the usual ones.
        trust_pickle: load a pickle without any check.

    Returns:
        The weights by name, and what was chosen.

    Raises:
        LoadError: the file cannot be read, or holds no weights.
    """
    path = Path(path)
    file = weights_file(path) if path.is_dir() else path
    if not file.exists():
        raise LoadError(f"there is no file {path}", fix="give a checkpoint, a file of weights or a model folder")
    with _as_load_error(file):
        kind = _sniff(file)
        if kind == "exported":
            return dict(load_exported(file).state_dict()), ()
        taken = _read(file, kind, (), trust_pickle, key, only_weights=True)
    state = weights(taken.value)
    if not state:
        raise nothing_in(taken.value, file)
    return state, ((taken.note,) if taken.note else ())


def _read(
    path: Path, kind: str, allow: Sequence[str], trust_pickle: bool, key: str | None, only_weights: bool
) -> Taken:
    """Read the network of a file, or its weights."""
    if kind == "safetensors":
        from safetensors.torch import load_file

        content: Any = read_shards(path) if path.name.endswith(INDEX) else load_file(path)
    elif trust_pickle:
        with from_current_folder(), quiet():
            content = with_torchvision(lambda: torch.load(path, map_location="cpu", weights_only=False))
    elif kind == "legacy":
        content = read_legacy(path)
    else:
        with from_current_folder():
            return read_checkpoint(path, allow, key, only_weights)
    taken = take(content, key, str(path))
    if taken is None:
        raise nothing_in(content, path)
    return replace(taken, value=state_of(taken.value)) if only_weights and is_network(taken.value) else taken


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
        where = problem.where or ("" if str(path) in problem.what else str(path))
        raise LoadError(problem.what, where=where, why=problem.why, fix=problem.fix, add=problem.add) from None
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as problem:
        raise LoadError(
            f"{path} cannot be read",
            why=first_line(problem),
            fix="check that the file is complete; " + _SAFER,
        ) from problem


def _load_bundle(
    path: Path,
    *,
    model: str | None,
    allow: Sequence[str],
    trust_pickle: bool,
    base: str | os.PathLike[str] | None,
    key: str | None,
    prefix: str | None,
    drop: Sequence[str],
) -> LoadedModel:
    """Load a bundle onto its base: `base`, `model`, or the file that the bundle names."""
    from actswap.io import base_note, bundle, bundle_files

    note = bundle_files.read_base(path)
    if model is None and note.model is not None:
        model = noted_source(note.model, path, allow)
    found = base if base is not None else base_note.find_base(path, note)
    if found is not None:
        plain = load_model(
            found,
            model=model,
            allow=allow,
            trust_pickle=trust_pickle,
            key=key or note.key,
            prefix=note.prefix if prefix is None else prefix,
            drop=drop or tuple(filter(None, (note.drop or "").split(","))),
        ).module
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
        add=f"--allow {package.partition('.')[0][:80]}" if package.isidentifier() else "",
    )


__all__ = ["LoadedModel", "build_model", "load_model", "noted_source"]
