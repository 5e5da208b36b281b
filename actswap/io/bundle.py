"""The saved result: a folder with `plan.json` and `model.safetensors`.

docs/bundle-format.md specifies the format. Nothing in a bundle can run: the plan is checked data, and the weights are
safetensors. A bundle is loaded onto a fresh copy of its base model. `actswap.io.save_exported` writes a self-contained
exported program instead.
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
from safetensors import SafetensorError
from torch import Tensor, nn

from actswap.activations.base import Activation
from actswap.activations.morph import finalize_like
from actswap.capture.duplicate import duplicate
from actswap.capture.wrappers import network_in, refuse_sharded, renew
from actswap.conversion.apply import apply_plan
from actswap.conversion.head import new_heads
from actswap.errors import ActswapError, LoadError, UsageError, first_line
from actswap.io.adapter import Adapter, complete, digest_of, put_heads, register, trained_names
from actswap.io.atomic import (
    beside_of,
    discard,
    flush,
    flush_folder,
    from_safetensors,
    locked,
    refuse_overwrite,
    replacing,
    write_error,
)
from actswap.io.base_note import Base
from actswap.io.fitting import place_of, renamed, tensors_for
from actswap.io.plan_check import check_plan
from actswap.io.state import State, all_ranks, state_of
from actswap.io.strict_json import read_json
from actswap.io.tensor_file import read_tensors, write_tensors
from actswap.plan import Plan, tool_version
from actswap.record import plan_of, the_converted

SCHEMA = 1
PLAN, WEIGHTS = "plan.json", "model.safetensors"
_LARGEST_PLAN = 64 << 20
_DOCUMENT = {"actswap": str, "torch": str, "pair": str, "base": dict, "plan": dict, "report": dict}
_TIMES = ("seconds", "time", "date", "peak_bytes")
_DIGEST_LENGTH = 64  # hexadecimal digits of a pair; bundles of earlier versions have random pairs of 32 digits
_PAIR = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_STAGED = re.compile(r"model\.[0-9a-f]{64}\.safetensors")


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Return True for a folder that holds a plan."""
    return (Path(path) / PLAN).is_file()


def save(
    model: nn.Module,
    out_dir: str | os.PathLike[str],
    *,
    base: Base | None = None,
    report: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    only_trained: bool = False,
) -> Path:
    """Save a converted model as a bundle, or what was trained of it as an adapter.

    Args:
        model: a model that `actswap.convert` gave, trained since or not, or what was put around it (DDP,
            `torch.compile`, a LightningModule). Of a sharded model every rank must call this; rank 0 writes.
        out_dir: the folder to create.
        base: a note on the model file it was made from, so that it is found again.
        report: JSON data to keep beside the plan, for `actswap show`.
        overwrite: replace an existing bundle.
        only_trained: write an adapter (`actswap.io.adapter`): the trained tensors alone, a few kB. It loads onto the
            base model with the same weights and no other.

    Returns:
        The folder.

    Raises:
        UsageError: the model was not converted, or its state holds something that is no tensor.
        FileError: the folder exists, or cannot be written; what stood there is unchanged.

    >>> import tempfile, torch, actswap
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> converted = actswap.convert(model, "acon_c", torch.randn(8, 4)).model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bundle = actswap.save(converted, folder + "/bundle")
    ...     sorted(file.name for file in bundle.iterdir())
    ['model.safetensors', 'plan.json']
    """
    out = Path(out_dir)
    name, network = the_converted(model, "save")
    plan = plan_of(network)
    assert plan is not None
    refuse_overwrite(out, overwrite=overwrite)
    if out.exists() and not is_bundle(out) and not (out.is_dir() and _is_empty(out)):
        raise UsageError(f"{out} exists and is not a bundle", fix="choose another place with -o OUT")
    described = plan.to_dict()
    with all_ranks(model):
        state = state_of(model, name)
        if state is not None:
            notes: dict[str, Any] = {"heads": heads} if (heads := new_heads(network)) else {}
            if only_trained:
                state, notes["adapter"] = _only(state, trained_names(network))
            _write_bundle(out, described, state, base or Base(), report or {}, notes)
    return out


def _write_bundle(
    out: Path,
    described: dict[str, Any],
    state: State,
    base: Base,
    report: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> None:
    tensors, alias = state
    pair = pair_of(described, tensors, alias)
    document = {
        "schema": SCHEMA,
        "actswap": tool_version(),
        "torch": torch.__version__,
        "pair": pair,
        "base": base.to_dict(),
        "plan": described,
        "report": _without_times(report),
        **notes,
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    metadata = {"schema": str(SCHEMA), "pair": pair}
    try:
        if is_bundle(out):
            _replace(out, text, pair, tensors, alias, metadata)
        else:
            with replacing(out) as beside:
                beside.mkdir()
                write_tensors(tensors, alias, beside / WEIGHTS, metadata)
                (beside / PLAN).write_text(text, encoding="utf-8")
    except OSError as problem:
        raise write_error(out, problem) from problem
    except SafetensorError as problem:  # raised by its writer if the disk is full
        raise write_error(out, from_safetensors(problem)) from problem


def _only(state: State, names: set[str]) -> tuple[State, dict[str, Any]]:
    """Keep the tensors of these names; what is left out is noted by its digest."""
    tensors, alias = state
    every = {**tensors, **{name: tensors[of] for name, of in alias.items()}}
    kept = {name: every[name].clone() for name in sorted(names)}
    return (kept, {}), {"base": digest_of({name: value for name, value in every.items() if name not in names})}


def _without_times(report: Any) -> Any:
    """Return a report without its times, so that the same command writes the same file."""
    if isinstance(report, Mapping):
        return {str(key): _without_times(value) for key, value in report.items() if key not in _TIMES}
    return [_without_times(item) for item in report] if isinstance(report, (list, tuple)) else report


def _replace(
    out: Path, text: str, pair: str, tensors: dict[str, Tensor], alias: dict[str, str], metadata: dict[str, str]
) -> None:
    """Replace the two files of a bundle in one step: the rename of `plan.json`.

    The new weights are written first, under a name that holds their pair. A reader takes `model.safetensors` if its
    pair is that of the plan, else the file named after the plan's pair. So a plan always finds its own weights, before
    the rename and after it.
    """
    staged = out / f"model.{pair}.safetensors"
    new_weights, new_plan = beside_of(out / WEIGHTS), beside_of(out / PLAN)
    try:
        write_tensors(tensors, alias, new_weights, metadata)
        new_plan.write_text(text, encoding="utf-8")
        flush(new_weights)
        flush(new_plan)
        with locked(out):
            os.replace(new_weights, staged)
            flush_folder(out)
            os.replace(new_plan, out / PLAN)
            flush_folder(out)
            os.replace(staged, out / WEIGHTS)
            flush_folder(out)
            for old in out.glob("model.*.safetensors"):  # left by a writer that was killed
                if _STAGED.fullmatch(old.name):
                    old.unlink(missing_ok=True)
    finally:
        discard(new_weights)
        discard(new_plan)


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


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


def load(path: str | os.PathLike[str], base_model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Load a bundle onto a fresh copy of its base model.

    The result computes the same bits as the saved model.

    Args:
        path: the bundle's folder.
        base_model: a model of the converted architecture, or one that holds it. Its weights do not matter; they are
            overwritten.
        inplace: change `base_model` itself instead of a copy.

    Returns:
        The converted model, with the weights of the bundle.

    Raises:
        LoadError: the bundle is damaged, of an unknown version, or does not fit the model.

    >>> import tempfile, torch, actswap
    >>> build = lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> x = torch.randn(8, 4)
    >>> converted = actswap.convert(build(), "acon_c", x).model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loaded = actswap.load(actswap.save(converted, folder + "/bundle"), build())
    >>> torch.equal(loaded(x), converted(x))
    True
    """
    refuse_sharded(network_in(base_model), "load")
    folder = Path(path)
    document, tensors = checked(folder)
    stored, before = tensors, {}
    try:
        plan = Plan.from_dict(document["plan"])
        model = base_model if inplace else duplicate(base_model)
        around = network_in(model)
        place = place_of(around, plan, tensors)
        network = around if place is None else around.get_submodule(place.name)
        apply_plan(network, plan if place is None else renamed(plan, place, network), inplace=True)
        if "adapter" in document:
            before = {n: v.clone() for n, v in network.state_dict().items() if n in tensors}
        put_heads(network, document.get("heads", {}), tensors, folder)
        if "adapter" in document:
            tensors = complete(network, tensors, document["adapter"].get("base"), str(folder))
    except LoadError:
        raise
    except ActswapError as problem:
        raise LoadError(f"the plan of {folder} does not fit this model", why=str(problem)) from problem
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RuntimeError,
        RecursionError,
    ) as problem:
        raise LoadError(
            f"the plan of {folder} is not valid",
            why=first_line(problem),
            fix="convert the base model again",
        ) from problem
    given = tensors if place is None else tensors_for(network, place, tensors)
    finalize_like(network, given)
    _put(network, given, folder)
    if "adapter" in document:
        register(network, folder.absolute().name, Adapter(stored, document.get("heads", {})), before)
    renew(model)
    return model


def checked(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the document and the tensors of a bundle or adapter whose two files belong together.

    Raises:
        LoadError: they are damaged, or of an unknown version.
    """
    document = read(folder)
    tensors, metadata = _weights_of(folder, document["pair"])
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


def _weights_of(folder: Path, pair: str) -> tuple[dict[str, Tensor], dict[str, str]]:
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


@torch.no_grad()
def _put(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the tensors into the model, in the saved dtype; shared parameters stay shared."""
    for name, module in model.named_modules():
        if isinstance(module, Activation):
            module.adapt_state(tensors, f"{name}." if name else "")
    state = model.state_dict(keep_vars=True)
    wrong = [f"missing {name}" for name in state if name not in tensors]
    wrong += [f"unknown {name}" for name in tensors if name not in state]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)} in the bundle and {tuple(value.shape)} in the model"
        for name, value in state.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if wrong:
        raise LoadError(
            f"the weights of {folder} do not fit this model",
            why="; ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""),
            fix="give the base model that was converted, with the same options: --base FILE or --model SPEC",
        )
    for name, value in state.items():
        saved = tensors[name]
        if value.dtype != saved.dtype:
            value.data = saved.to(value.device)
        else:
            value.copy_(saved)
