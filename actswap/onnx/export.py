"""`export_onnx`: write a PyTorch model as one ONNX file that runs in any ONNX Runtime.

The file is compared with PyTorch before it is put in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actswap.activations.base import OnnxFunction
from actswap.capture.duplicate import duplicate, settled
from actswap.capture.evaluating import modes_kept
from actswap.capture.wrappers import network_in
from actswap.checks.precision import AS_FLOAT32, as_float32, low_precision, runs_in_float32
from actswap.errors import ExportError, UsageError
from actswap.inputs import as_inputs
from actswap.io.atomic import beside_of, discard, flush, flush_folder, refuse_overwrite, write_error
from actswap.onnx import feeds
from actswap.onnx.algebra.simplify import Simplified, simplified_graph
from actswap.onnx.capture import Inputs, batch_size, capture, tensors, to_graph, with_batch
from actswap.onnx.finalize import finalize, operators
from actswap.onnx.model_file import external_files
from actswap.onnx.parity import OutputParity
from actswap.onnx.plain_call import plain_call
from actswap.onnx.proof import TOLERANCE, Proof, output_names, plain_session, prove, takes_other_sizes
from actswap.onnx.time_limit import OutOfTimeError, at_most
from actswap.onnx.translate import lower_nodes
from actswap.record import plan_of
from actswap.sites import Progress

LOWEST_OPSET = 18
# A protobuf holds 2 GiB at most; beyond this the weights go into a second file beside the model.
_INLINE_BYTES = 1_800_000_000


@dataclass(frozen=True)
class ExportReport:
    """What was written, and the proof.

    Attributes:
        path: the file.
        opset: version of the standard operators in it.
        operators: node counts by operator; those of the project as `actswap.AconC`.
        parity: per output, the largest difference to PyTorch over all checks.
        checked: input shapes of each check.
        inputs: shape of every input; a name stands for an axis of any length.
        bytes: size of the file, and of its data file if it has one.
        simplified: by site, the plain operator written in its place, or `folded`.
        notes: what should be known: an axis that had to stay fixed, a check that the model itself refused.

    >>> import tempfile, torch, actswap
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.randn(8, 4)
    >>> converted = actswap.convert(model, "acon_c", x).model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = actswap.export_onnx(converted, x, folder + "/model.onnx")
    >>> report.operators["actswap.Swish"], report.inputs  # with p1 = 1 and p2 = 0, ACON-C is a Swish
    (1, {'input': ('batch', 4)})
    """

    path: str
    opset: int
    operators: Mapping[str, int]
    parity: tuple[OutputParity, ...]
    checked: tuple[tuple[tuple[int, ...], ...], ...]
    inputs: Mapping[str, tuple[int | str, ...]]
    bytes: int
    simplified: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def export_onnx(
    model: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool = True,
    patience: float = 60.0,
    opset: int = LOWEST_OPSET,
    decompose: bool = False,
    half: bool = False,
    simplify: bool = True,
    check: bool = True,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write `model` as ONNX; every activation of the project is one node with a function body.

    The file is written beside its place. It is moved there only after it has passed the ONNX checker and has agreed
    with PyTorch, in a plain ONNX Runtime, on the example, on other batch sizes and on another size.

    Args:
        model: exported in evaluation mode; not changed.
        example_inputs: a tensor, a tuple of the positional arguments, or a dict of keyword arguments. Objects that hold
            tensors (a graph, a batch) become one input per tensor.
        path: the ONNX file to write.
        example_kwargs: keyword arguments of the call.
        dynamic_batch: the first axis may have any length.
        dynamic_size: heights, widths and lengths may change, if the model allows it; the report's `notes` tell.
        patience: seconds that the search for dynamic sizes may take; then they are fixed, and `notes` tell.
        opset: version of the standard operators, 18 or newer.
        decompose: standard operators in place of the project's nodes, for runtimes without functions.
        half: weights, inputs and outputs in float16.
        simplify: write an activation that equals a plain operator within the tolerance as that operator, and fold the
            scales of the others into the layers around them (see `actswap.onnx.algebra`); the report lists both.
        check: compare with PyTorch in float32; relative error at most 1e-4, in float16 four times PyTorch's own error
            there.
        overwrite: replace an existing file.
        metadata: further entries of the file's metadata; it always has the tool's version, types, shapes and ranges of
            the inputs (`actswap.inputs`) and, for a converted model, the hash of its plan (`actswap.plan`).
        progress: called with (step, steps, text).

    Returns:
        What was written, and how far it is from PyTorch.

    Raises:
        FileError: the file exists, or cannot be written.
        UsageError: an option is wrong.
        ExportError: the model cannot be exported, or the file does not agree with it; no file is left behind.

    Example:
        >>> import tempfile, torch
        >>> folder, model = tempfile.TemporaryDirectory(), nn.Sequential(nn.Linear(3, 2), nn.SiLU())
        >>> report = export_onnx(model, torch.zeros(1, 3), f"{folder.name}/model.onnx")
        >>> report.inputs, report.parity[0].relative < 1e-4
        ({'input': ('batch', 3)}, True)
        >>> folder.cleanup()
    """
    target = _target(Path(path), overwrite)
    newest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= newest:
        raise UsageError(
            f"opset={opset} is not supported",
            why=f"function bodies need {LOWEST_OPSET}, and the installed onnx knows up to {newest}",
            fix=f"export_onnx(..., opset={LOWEST_OPSET})",
        )
    tell = progress or (lambda step, steps, text: None)
    notes: list[str] = []
    entries = {**_plan_entry(model), **(metadata or {})}
    model, taken = network_in(model), as_inputs(example_inputs, example_kwargs)
    with modes_kept(model), plain_call(model, taken) as inputs, _workspace(target) as folder:
        model.eval()
        own = settled(model)
        exported, given = (duplicate(own).half(), _half_inputs(inputs)) if half else (own, inputs)
        reference, full = _in_float32(own, inputs)
        low = exported if half or reference is not own else None
        names = output_names(exported, given)
        sizes = [True, False] if dynamic_size else [False]
        if dynamic_size and not takes_other_sizes(exported, given):
            sizes = [False]
            notes.append("sizes are fixed to those of the example: the model takes no other")
        for size in sizes:
            try:
                tell(0, 4, "capture")
                with at_most(patience if size else math.inf):
                    graph, functions = _graph(exported, given, dynamic_batch, size, opset, tell)
                choices = _choices(graph, functions, opset, given, simplify and low is None, notes)
                for choice in choices:
                    try:
                        title = type(model).__name__
                        said = {**entries, feeds.KEY: _described(choice.model, given)}
                        proto = finalize(choice.model, choice.functions, opset, decompose, said, names, title)
                        tell(2, 4, "write")
                        file = _write(proto, folder / target.name)
                        tell(3, 4, "check")
                        session = plain_session(file)
                        proof = Proof((), (), ())
                        if check:
                            proof = prove(session, reference, full, low, given, asked=half)
                        break
                    except ExportError as error:
                        if choice is choices[-1]:
                            raise
                        notes.append(f"not simplified: {error.what}; {error.why}")
                break
            except ExportError as error:
                if size == sizes[-1]:
                    raise
                notes.append(f"sizes are fixed to those of the example: {error.what}; {error.why}".rstrip("; "))
            except OutOfTimeError as stop:
                notes.append(
                    f"sizes are fixed to those of the example: the search for dynamic sizes was {stop}; "
                    "--patience SECONDS (patience=) lets it go on for longer, --fixed-size (dynamic_size=False) "
                    "leaves it out"
                )
                tell(0, 4, "capture")
        report = ExportReport(
            path=str(target),
            opset=opset,
            operators=operators(proto),
            parity=proof.parity,
            checked=proof.checked,
            inputs={value.name: tuple(value.shape) for value in session.get_inputs()},
            bytes=sum(part.stat().st_size for part in folder.iterdir()),
            simplified={**choice.plain, **dict.fromkeys(choice.folded, "scales folded into the layers around it")},
            notes=(*notes, *proof.notes),
        )
        _move(file, target)
        tell(4, 4, "done")
    return report


def _plan_entry(model: nn.Module) -> dict[str, str]:
    """The hash of the plan that made a converted model."""
    plan = plan_of(model)
    if plan is None:
        return {}
    text = json.dumps(plan.to_dict(), sort_keys=True, default=str)
    return {"actswap.plan": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _described(graph: ir.Model, given: Inputs) -> str:
    """Describe the inputs by the names that the graph has for them."""
    arrays = (leaf.detach().cpu().numpy() for leaf in tensors(given))
    return feeds.describe([dict(zip((str(value.name) for value in graph.graph.inputs), arrays, strict=True))])


def _target(path: Path, overwrite: bool) -> Path:
    refuse_overwrite(path, overwrite=overwrite)
    return path


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A folder beside the target, removed whatever happens."""
    folder = beside_of(target)
    try:
        folder.mkdir()
    except OSError as error:
        raise write_error(target, error) from error
    try:
        yield folder
    finally:
        discard(folder)


def _in_float32(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """Return what the file is compared with: a model in half precision is its own reference only if it has no other.

    Raises:
        ExportError: the model is in bfloat16, in which ONNX Runtime does not compute on a CPU.
    """
    precision = low_precision(model)
    if precision is None:
        return model, inputs
    if precision is torch.bfloat16:
        raise ExportError(
            "a model in bfloat16 cannot be checked in ONNX Runtime",
            why="its CPU kernels do not compute in bfloat16",
            fix=AS_FLOAT32,
            add="--dtype float32",
        )
    full: Inputs = as_float32(inputs)
    if runs_in_float32(model, *full) is None:
        return model, inputs
    return duplicate(model).float(), full


def _half_inputs(inputs: Inputs) -> Inputs:
    def change(leaf: Any) -> Any:
        return leaf.half() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    changed: Inputs = pytree.tree_map(change, inputs)
    return changed


def _graph(
    model: nn.Module, inputs: Inputs, dynamic_batch: bool, dynamic_size: bool, opset: int, tell: Progress
) -> tuple[ir.Model, list[OnnxFunction]]:
    # torch.export takes an axis of length 1 as fixed, so it is shown a batch of one as two.
    shown = with_batch(inputs, 2) if dynamic_batch and batch_size(inputs) == 1 else inputs
    program = capture(model, shown, dynamic_batch, dynamic_size)
    tell(1, 4, "translate")
    graph = to_graph(program, opset)
    return graph, lower_nodes(graph)


def _choices(
    graph: ir.Model, functions: list[OnnxFunction], opset: int, given: Inputs, simplify: bool, notes: list[str]
) -> list[Simplified]:
    """Return the graphs to try: the simplified one, if there is one, and then the exported one."""
    plain = Simplified(graph, tuple(functions))
    if not simplify or not functions:
        return [plain]
    stored = (value.const_value for value in graph.graph.initializers.values())
    if sum(tensor.nbytes for tensor in stored if tensor is not None) > _INLINE_BYTES:
        notes.append("not simplified: the model is too large to be run from memory")
        return [plain]
    feed = [leaf.detach().cpu().numpy() for leaf in tensors(given)]
    found = simplified_graph(graph, functions, opset, feed, TOLERANCE / 2)
    return [found, plain] if found.model is not graph else [plain]


def _write(proto: onnx.ModelProto, file: Path) -> Path:
    for old in file.parent.iterdir():
        old.unlink()
    large = sum(len(t.raw_data) for t in proto.graph.initializer) > _INLINE_BYTES
    location = f"{file.name}.{_digest(proto)}.data" if large else None
    try:
        onnx.save_model(proto, file, save_as_external_data=large, location=location)
    except OSError as error:
        raise write_error(file, error) from error
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:
        raise ExportError("the exported file does not pass the ONNX checker", why=str(error)) from error
    return file


def _digest(proto: onnx.ModelProto) -> str:
    """Digest of the weights, for the name of their file: an old model keeps its own until the new one is in place."""
    digest = hashlib.sha256()
    for tensor in proto.graph.initializer:
        digest.update(tensor.name.encode() + tensor.raw_data)
    return digest.hexdigest()[:12]


def _move(file: Path, target: Path) -> None:
    """Put the weights and then the model in place: a reader sees the old or the new model, complete."""
    data = [part for part in file.parent.iterdir() if part != file]
    old = _weights_of(target) - {part.name for part in data}
    try:
        for part in (*data, file):
            flush(part)
            os.replace(part, target.parent / part.name)
        flush_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    for name in old:
        discard(target.parent / name)


def _weights_of(target: Path) -> set[str]:
    """Names of the weight files of an older model at a place, of those that this tool named after it."""
    try:
        old = onnx.load(target, load_external_data=False)
        found = {part.name for part in external_files(old, target.parent)}
    except Exception:  # nothing there, or no model: then nothing is removed
        return set()
    return {name for name in found if name.startswith(f"{target.name}.") and name.endswith(".data")}
