"""The saved result: a folder with `plan.json` and `model.safetensors`.

docs/bundle-format.md specifies the format.
Nothing in a bundle can run: the plan is checked data, the weights are safetensors. A bundle is put back onto
a fresh copy of its base model; `save_pt2` writes a self-contained exported program instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from actswap.activations.base import Activation
from actswap.conversion.apply import apply_plan
from actswap.errors import ActswapError, ExportError, LoadError, UsageError
from actswap.io.atomic import refuse_overwrite, replacing
from actswap.io.exported import is_plain_tree
from actswap.io.folders import is_model_folder, weights_file
from actswap.plan import Plan, tool_version
from actswap.record import plan_of

SCHEMA = 1
PLAN, WEIGHTS = "plan.json", "model.safetensors"
_LARGEST_PLAN = 64 << 20


@dataclass(frozen=True)
class Base:
    """The note on the model that a bundle was made from.

    Attributes:
        file: name of its file or model folder, without folders; looked for beside the bundle and in the current folder.
        sha256: digest of that file, or of the weights in that folder.
        model: the `--model` text that builds it, where its file holds weights only.
    """

    file: str | None = None
    sha256: str | None = None
    model: str | None = None


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """True for a folder that holds a plan."""
    return (Path(path) / PLAN).is_file()


def base_of(path: str | os.PathLike[str], model: str | None = None) -> Base:
    """Return the note on a model file or folder: its name, its digest, and how it was built."""
    return Base(Path(path).absolute().name, _digest(Path(path)), model)


def save(
    model: nn.Module,
    out_dir: str | os.PathLike[str],
    *,
    base: Base | None = None,
    report: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a converted model as a bundle.

    Args:
        model: a model that `actswap.convert` gave, trained since or not.
        out_dir: the folder to create.
        base: a note on the model file it was made from, so that it is found again.
        report: JSON data to keep beside the plan, for `actswap show`.
        overwrite: replace an existing bundle.

    Returns:
        The folder.

    Raises:
        UsageError: the model was not converted, or its state holds something that is no tensor.
        FileError: the folder exists, or cannot be written; what stood there is unchanged.
    """
    out = Path(out_dir)
    plan = plan_of(model)
    if plan is None:
        raise UsageError(
            "this model was not converted by actswap",
            fix="actswap.save(actswap.convert(model, 'acon_c', inputs).model, ...)",
        )
    refuse_overwrite(out, overwrite=overwrite)
    if out.exists() and not (out / PLAN).is_file():
        raise UsageError(f"{out} exists and is not a bundle", fix="choose another place with -o OUT")
    pair = secrets.token_hex(16)  # ties the two files together: a mixed pair is refused on loading
    document = {
        "schema": SCHEMA,
        "actswap": tool_version(),
        "torch": torch.__version__,
        "pair": pair,
        "base": asdict(base or Base()),
        "plan": plan.to_dict(),
        "report": dict(report or {}),
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    created = not out.exists()
    try:
        out.mkdir(exist_ok=True)
        with replacing(out / PLAN) as plan_file, replacing(out / WEIGHTS) as weights_file:
            write_weights(model, weights_file, {"schema": str(SCHEMA), "pair": pair})
            plan_file.write_text(text, encoding="utf-8")
    except BaseException:
        if created:
            with suppress(OSError):
                out.rmdir()
        raise
    return out


def load(path: str | os.PathLike[str], base_model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Put a bundle back onto a fresh copy of its base model.

    The result computes the same bits as the model that was saved.

    Args:
        path: the bundle's folder.
        base_model: a model of the architecture that was converted; its weights do not matter.
        inplace: change `base_model` itself.

    Raises:
        LoadError: the bundle is damaged, of an unknown version, or does not fit the model.
    """
    folder = Path(path)
    document = read(folder)
    tensors, metadata = _read_tensors(folder / WEIGHTS)
    if metadata.get("pair") != document.get("pair"):
        raise LoadError(
            f"the two files of {folder} do not belong together",
            why="saving was interrupted between them, or one was copied from elsewhere",
            fix="convert again, or copy both files of one bundle",
        )
    _check(document["plan"], limit=sum(tensor.numel() for tensor in tensors.values()), folder=folder)
    try:
        plan = Plan.from_dict(document["plan"])
        model = apply_plan(base_model, plan, inplace=inplace)
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
            why=f"{type(problem).__name__}: {problem}",
            fix="convert the base model again",
        ) from problem
    _put(model, tensors, folder)
    return model


def write_weights(model: nn.Module, file: Path, metadata: Mapping[str, str]) -> None:
    """Write the state of any model as safetensors; `alias` in the metadata names shared tensors."""
    tensors, alias = _tensors(model)
    save_file(tensors, file, {"format": "pt", "actswap": tool_version(), "alias": json.dumps(alias), **metadata})


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
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise LoadError(f"{file} is damaged", why=str(problem)[:200], fix="convert the base model again") from None
    if not isinstance(document, dict) or not isinstance(document.get("plan"), dict):
        raise LoadError(f"{file} is not a plan", why="it holds no object named plan", fix="convert again")
    if document.get("schema") != SCHEMA or isinstance(document["schema"], bool):
        raise LoadError(
            f"{file} has schema {document.get('schema')!r}; this actswap reads schema {SCHEMA}",
            fix="use the actswap that wrote it (its version stands in the file), or convert again",
        )
    return document


def read_base(path: str | os.PathLike[str]) -> Base:
    """Return the note on the base model of a bundle; a file name with a folder in it is refused."""
    note = read(path).get("base") or {}
    if not isinstance(note, dict) or not all(isinstance(v, str | None) for v in note.values()):
        raise LoadError(f"the base of {path} is not valid", why="it must hold texts", fix="convert again")
    base = Base(note.get("file"), note.get("sha256"), note.get("model"))
    if base.file is not None and (base.file in ("", ".", "..") or any(c in base.file for c in "/\\\0")):
        raise LoadError(
            f"the bundle {path} names its base as {base.file!r}",
            why="a base is a file name without folders",
            fix="do not trust this bundle; give the base yourself with --base FILE",
        )
    return base


def find_base(path: str | os.PathLike[str], base: Base) -> Path | None:
    """Find the base file of a bundle beside it or in the current folder, by name and digest."""
    if base.file is None:
        return None
    for folder in (Path(path).absolute().parent, Path.cwd()):
        candidate = folder / base.file
        if (candidate.is_file() or is_model_folder(candidate)) and _digest(candidate) == base.sha256:
            return candidate
    return None


def save_pt2(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a self-contained exported program that needs only torch and actswap.

    The batch is dynamic if torch can export the model so.

    Args:
        model: the converted model.
        path: the `.pt2` file.
        example_inputs: positional inputs; the first dimension of each tensor is tried as dynamic.
        example_kwargs: keyword inputs.
        overwrite: replace an existing file.

    Raises:
        ExportError: torch.export cannot capture the model.
    """
    refuse_overwrite(path, overwrite=overwrite)
    program = _export(model, example_inputs, dict(example_kwargs or {}))
    with replacing(path) as beside, beside.open("wb") as file:
        torch.export.save(program, file)
    return Path(path)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim.AUTO

    def shape_of(value: Any) -> Any:
        return {0: batch} if isinstance(value, Tensor) and value.dim() and value.shape[0] > 0 else None

    # A batch of one would be burnt in as a constant: show the exporter two.
    doubled = tuple(torch.cat([a, a]) if isinstance(a, Tensor) and a.dim() and a.shape[0] == 1 else a for a in args)
    shapes = tuple(map(shape_of, doubled))
    try:
        # A forward that takes *args (an island's) wants the shapes one level deeper. Some models hold their batch
        # fixed: then the example's own shape is exported.
        for nested in (shapes, (shapes,)) if not kwargs else ():
            with suppress(Exception):
                return torch.export.export(model, doubled, kwargs, dynamic_shapes=nested)
        return torch.export.export(model, args, kwargs)
    except Exception as problem:  # torch.export raises many kinds
        raise ExportError(
            "the model cannot be exported with torch.export",
            why=f"{type(problem).__name__}: {str(problem).splitlines()[0]}",
            fix="save a bundle instead: --format bundle",
        ) from problem


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each distinct tensor of the state once, and the names that share one with another name."""
    kept: dict[str, Tensor] = {}
    alias: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"the state {name!r} of the model is a {type(value).__name__}, not a tensor",
                fix="save it as an exported program: --format pt2",
            )
        value = value.detach()
        key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in seen:
            alias[name] = seen[key]
            continue
        seen[key] = name
        kept[name] = value.cpu().clone(memory_format=torch.contiguous_format)
    return kept, alias


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = dict(handle.metadata() or {})
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        alias = json.loads(metadata.get("alias", "{}"))
        tensors.update({name: tensors[of] for name, of in alias.items()})
    except FileNotFoundError:
        raise LoadError(f"{file} is missing", fix="copy the whole bundle folder") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise LoadError(
            f"{file} is damaged",
            why=f"{type(problem).__name__}: {problem}"[:200],
            fix="copy the bundle again",
        ) from None
    return tensors, metadata


def _check(plan: Any, *, limit: int, folder: Path, key: str = "") -> None:
    """Refuse what a plan must not ask for: more numbers than the bundle has, or trees of other types."""
    if isinstance(plan, dict):
        for name, value in plan.items():
            if name == "histogram":  # statistics, whose counts are no sizes
                continue
            _check(value, limit=limit, folder=folder, key=name)
    elif isinstance(plan, list):
        for value in plan:
            _check(value, limit=limit, folder=folder, key=key)
    elif key == "channels" and plan is not None and (type(plan) is not int or not 0 < plan <= limit):
        raise LoadError(
            f"the plan of {folder} asks for {str(plan)[:40]!r} channels", why=_SIZE.format(limit), fix=_AGAIN
        )
    elif isinstance(plan, int) and abs(plan) > max(limit, 1 << 20):
        raise LoadError(f"the plan of {folder} holds {key} = {str(plan)[:40]}", why=_SIZE.format(limit), fix=_AGAIN)
    elif key == "spec" and not (isinstance(plan, str) and is_plain_tree(plan)):
        raise LoadError(f"the plan of {folder} holds a tree of another type", why=str(plan)[:100], fix=_AGAIN)


_SIZE = "its weights hold {} numbers in all"
_AGAIN = "do not trust this bundle; convert the base model again"


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


def _digest(path: Path) -> str:
    """Of a file; of a model folder, that of its weights, or of the list of their shards."""
    if path.is_dir():
        path = weights_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(file)


def _slow(file: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
