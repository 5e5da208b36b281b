"""The saved result: a folder with `plan.json` and `model.safetensors`.

docs/bundle-format.md specifies the format. Nothing in a bundle can run: the plan is checked data, and the weights are
safetensors. A bundle is loaded onto a fresh copy of its base model. `actswap.io.save_exported` writes a self-contained
exported program instead.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
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
from actswap.io.bundle_files import PLAN, SCHEMA, WEIGHTS, checked, pair_of
from actswap.io.fitting import place_of, renamed, tensors_for
from actswap.io.state import State, all_ranks, state_of
from actswap.io.tensor_file import write_tensors
from actswap.plan import Plan, tool_version
from actswap.record import plan_of, the_converted

_TIMES = ("seconds", "time", "date", "peak_bytes")
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
