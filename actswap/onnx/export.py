"""`export_onnx`: a PyTorch model as one ONNX file that runs in any ONNX Runtime, proved before it is put in place."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import actswap
from actswap.activations.base import OnnxFunction
from actswap.errors import CaptureError, ExportError, FileError, UsageError
from actswap.onnx.capture import Inputs, batch_size, capture, evaluating, resize, tensors, to_graph, with_batch
from actswap.onnx.functions import DOMAIN, VERSION, Array
from actswap.onnx.parity import OutputParity, compare, worst
from actswap.onnx.translate import lower_nodes

TOLERANCE = 1e-4
LOWEST_OPSET = 18
# A protobuf holds 2 GiB at most; beyond this the weights go into a second file beside the model.
_INLINE_BYTES = 1_800_000_000

Progress = Callable[[int, int, str], None]


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
        bytes: size of the file, with its data file where there is one.
        notes: what should be known: an axis that had to stay fixed, a check that the model itself refused.
    """

    path: str
    opset: int
    operators: Mapping[str, int]
    parity: tuple[OutputParity, ...]
    checked: tuple[tuple[tuple[int, ...], ...], ...]
    inputs: Mapping[str, tuple[int | str, ...]]
    bytes: int
    notes: tuple[str, ...] = field(default=())

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
    opset: int = LOWEST_OPSET,
    decompose: bool = False,
    half: bool = False,
    check: bool = True,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write `model` as ONNX; every activation of the project is one node with a function body.

    The file is written beside its place and moved there only after it has passed the ONNX checker and, in a plain
    ONNX Runtime without any library, agreed with PyTorch on the example, on other batch sizes and on another size.

    Args:
        model: exported in evaluation mode; not changed.
        example_inputs: a tensor, or a tuple of the positional arguments.
        path: where the file goes.
        example_kwargs: keyword arguments of the call.
        dynamic_batch: the first axis may have any length.
        dynamic_size: heights, widths and lengths may change, where the model allows it (see `notes` of the report).
        opset: version of the standard operators, 18 or newer.
        decompose: standard operators in place of the project's nodes, for runtimes without functions.
        half: weights, inputs and outputs in float16.
        check: compare with PyTorch; relative error at most 1e-4, in float16 four times PyTorch's own error in float16.
        overwrite: replace an existing file.
        metadata: further entries of the file's metadata, e.g. the hash of the plan.
        progress: called with (step, steps, text).

    Raises:
        FileError: the file exists, or cannot be written.
        UsageError: an option is wrong.
        ExportError: the model cannot be exported, or the file does not agree with it; nothing is left on disk.
    """
    target = _target(Path(path), overwrite)
    newest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= newest:
        raise UsageError(
            f"opset={opset} is not supported",
            why=f"function bodies need {LOWEST_OPSET}, and the installed onnx knows up to {newest}",
            fix=f"export_onnx(..., opset={LOWEST_OPSET})",
        )
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    inputs: Inputs = (args, dict(example_kwargs or {}))
    tell = progress or (lambda step, steps, text: None)
    note: list[str] = []
    with evaluating(model), _workspace(target) as folder:
        reference = copy.deepcopy(model) if half else model
        exported = _half(model) if half else model
        given = _half_inputs(inputs) if half else inputs
        sizes = [True, False] if dynamic_size else [False]
        for size in sizes:
            try:
                tell(0, 4, "capture")
                graph, functions = _graph(exported, given, dynamic_batch, size, opset, tell)
                proto = _finish(graph, functions, opset, decompose, metadata or {}, exported, given)
                tell(2, 4, "write")
                file = _write(proto, folder / target.name)
                tell(3, 4, "check")
                report = _prove(file, reference, exported, inputs, given, check, half)
                break
            except ExportError as error:
                if size == sizes[-1]:
                    raise
                note.append(f"sizes are fixed to those of the example: {error.what}; {error.why}".rstrip("; "))
        _move(file, target)
        tell(4, 4, "done")
    return replace(report, path=str(target), notes=(*note, *report.notes))


def _target(path: Path, overwrite: bool) -> Path:
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists", fix="export_onnx(..., overwrite=True)")
    if not path.parent.is_dir():
        raise FileError(f"cannot write {path}", why=f"{path.parent} is not a folder")
    return path


@contextlib.contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A folder beside the target, removed whatever happens."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise FileError(f"cannot write {target}", why=str(error)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _half(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).half()


def _half_inputs(inputs: Inputs) -> Inputs:
    def change(leaf: Any) -> Any:
        return leaf.half() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    changed: Inputs = pytree.tree_map(change, inputs)
    return changed


def _graph(
    model: nn.Module, inputs: Inputs, dynamic_batch: bool, dynamic_size: bool, opset: int, tell: Progress
) -> tuple[ir.Model, list[OnnxFunction]]:
    # An axis of length 1 would be taken as fixed by torch.export, so a batch of one is shown to it as two.
    shown = with_batch(inputs, 2) if dynamic_batch and batch_size(inputs) == 1 else inputs
    program = capture(model, shown, dynamic_batch, dynamic_size)
    tell(1, 4, "translate")
    graph = to_graph(program, opset)
    return graph, lower_nodes(graph)


def _finish(
    graph: ir.Model,
    functions: Sequence[OnnxFunction],
    opset: int,
    decompose: bool,
    metadata: Mapping[str, str],
    model: nn.Module,
    inputs: Inputs,
) -> onnx.ModelProto:
    """Name the axes and outputs, drop the exporter's notes (they hold local paths), attach bodies and metadata."""
    _name_outputs(graph, _output_names(model, inputs))
    for part in (graph.graph, *graph.graph.subgraphs()):
        part.metadata_props.clear()
        for node in part:
            node.metadata_props.clear()
            node.doc_string = None
    graph.graph.name = type(model).__name__
    proto = ir.to_proto(graph)
    _name_axes(proto)
    proto.producer_name, proto.producer_version = "actswap", _version()
    entries = {"actswap.version": _version(), "actswap.domain_version": str(VERSION), **metadata}
    onnx.helper.set_model_props(proto, entries)
    proto.functions.extend(body(function, opset) for function in functions)
    return onnx.inliner.inline_local_functions(proto) if decompose else proto


def body(function: OnnxFunction, opset: int) -> onnx.FunctionProto:
    """Parse the body of a function for a version of the standard operators."""
    attributes = f" <{', '.join(function.attributes)}>" if function.attributes else ""
    inputs = ", ".join(function.inputs)
    text = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]> {function.op}{attributes} ({inputs}) => (y)'
    return onnx.parser.parse_function(f"{text}\n{{{function.body}}}")


def _output_names(model: nn.Module, inputs: Inputs) -> list[str]:
    """Names from the structure of the model's result: keys of a dict, else `output`, `output_1`, ..."""
    leaves = [(p, leaf) for p, leaf in pytree.tree_leaves_with_path(_run(model, inputs)) if isinstance(leaf, Tensor)]
    if len(leaves) == 1 and not isinstance(leaves[0][0][0] if leaves[0][0] else None, pytree.MappingKey):
        return ["output"]
    return [
        "_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", k)))) for key in p)
        if any(isinstance(key, pytree.MappingKey) for key in p)
        else ("output" if k == 0 else f"output_{k}")
        for k, (p, _) in enumerate(leaves)
    ]


def _name_outputs(model: ir.Model, names: Sequence[str]) -> None:
    outputs = model.graph.outputs
    taken = {value.name for value in model.graph.inputs} | set(model.graph.initializers)
    if len(names) != len(outputs) or len(set(outputs)) != len(outputs) or taken & set(names):
        return
    for node in model.graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}_inner"
    for value, name in zip(outputs, names, strict=True):
        if value.producer() is not None:
            value.name = name


def _name_axes(proto: onnx.ModelProto) -> None:
    """Give the exporter's symbols (`s31`) names that say what they are (`batch`, `height`, `width`, `length`)."""
    names: dict[str, str] = {}
    for value in proto.graph.input:
        shape = value.type.tensor_type.shape.dim
        words = {4: ("batch", "channels", "height", "width"), 3: ("batch", "length", "width"), 2: ("batch", "length")}
        for axis, dim in enumerate(shape):
            if re.fullmatch(r"s\d+", dim.dim_param) and dim.dim_param not in names:
                word = (words.get(len(shape), ("batch",)) + tuple(f"axis{k}" for k in range(9)))[axis]
                names[dim.dim_param] = word if word not in names.values() else f"{word}_{value.name}"
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.isdigit():
                dim.dim_value = int(dim.dim_param)
            elif dim.dim_param:
                dim.dim_param = re.sub(r"\bs\d+\b", lambda m: names.get(m[0], m[0]), dim.dim_param)


def _write(proto: onnx.ModelProto, file: Path) -> Path:
    for old in file.parent.iterdir():
        old.unlink()
    large = sum(len(t.raw_data) for t in proto.graph.initializer) > _INLINE_BYTES
    try:
        onnx.save_model(proto, file, save_as_external_data=large, location=f"{file.name}.data" if large else None)
    except OSError as error:
        raise FileError(f"cannot write {file.name}", why=str(error)) from error
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:
        raise ExportError("the exported file does not pass the ONNX checker", why=str(error)) from error
    return file


def _move(file: Path, target: Path) -> None:
    """Put the data file and then the model in place: a reader sees the old model, or the new one, complete."""
    try:
        for source in sorted(file.parent.iterdir(), key=lambda p: p == file):
            os.replace(source, target.parent / source.name)
    except OSError as error:
        raise FileError(f"cannot write {target}", why=str(error)) from error


def _prove(
    file: Path, reference: nn.Module, exported: nn.Module, inputs: Inputs, given: Inputs, check: bool, half: bool
) -> ExportReport:
    session = plain_session(file)
    shapes = {value.name: tuple(value.shape) for value in session.get_inputs()}
    trials, notes = [(inputs, given)], []
    if check:
        for batch, size in ((1, 0), (3, 0), (2, 32)):
            other = _other(given, shapes, batch, size)
            if [t.shape for t in tensors(other)] != [t.shape for t in tensors(given)]:
                trials.append((_other(inputs, shapes, batch, size), other))
    checks, checked = [], []
    for k, (full, low) in enumerate(trials if check else []):
        try:
            expected = _outputs(reference, full)
        except CaptureError as error:
            if k == 0:
                raise
            notes.append(f"not checked on {[tuple(t.shape) for t in tensors(full)]}: the model refuses it ({error.why})")
            continue
        names = [value.name for value in session.get_outputs()]
        rows = compare(names, expected, _session_outputs(session, low))
        limits = [TOLERANCE] * len(rows)
        if half:
            own = compare(names, expected, _outputs(exported, low))
            limits = [4 * row.relative + 2.0**-10 for row in own]
        for row, limit in zip(rows, limits, strict=True):
            if not row.relative <= limit:
                raise ExportError(
                    f"the exported file does not agree with PyTorch on inputs {[tuple(t.shape) for t in tensors(full)]}",
                    where=f"output {row.name}",
                    why=f"relative error {row.relative:.3g}, allowed {limit:.3g}",
                )
        checks.append(rows)
        checked.append(tuple(tuple(t.shape) for t in tensors(full)))
    proto = onnx.load(file, load_external_data=False)
    return ExportReport(
        path=str(file),
        opset=next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")),
        operators=operators(proto),
        parity=worst(*checks) if checks else (),
        checked=tuple(checked),
        inputs=shapes,
        bytes=sum(part.stat().st_size for part in file.parent.iterdir()),
        notes=tuple(notes),
    )


def operators(proto: onnx.ModelProto) -> dict[str, int]:
    """Count the nodes of the main graph by operator, most frequent first."""
    counts = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in proto.graph.node)
    return dict(counts.most_common())


def plain_session(file: Path) -> Any:
    """Open a file in ONNX Runtime's CPU provider, without the library of the project."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError("ONNX Runtime cannot load the exported file", why=str(error)) from error


def _other(inputs: Inputs, shapes: Mapping[str, tuple[int | str, ...]], batch: int, size: int) -> Inputs:
    """The inputs with another batch and size, along the axes that the file says are free."""
    leaves, spec = pytree.tree_flatten(inputs)
    position = iter(shapes.values())
    changed = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            names = next(position, tuple(leaf.shape))
            shape = [
                length if not isinstance(name, str) or not name.isidentifier() else batch if axis == 0 else length + size
                for axis, (length, name) in enumerate(zip(leaf.shape, names, strict=True))
            ]
            leaf = leaf if shape == list(leaf.shape) else resize(leaf, shape, 0.9)
        changed.append(leaf)
    other: Inputs = pytree.tree_unflatten(changed, spec)
    return other


def _run(model: nn.Module, inputs: Inputs) -> Any:
    try:
        with torch.no_grad():
            return model(*inputs[0], **inputs[1])
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be run on the inputs",
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
        ) from error


def _outputs(model: nn.Module, inputs: Inputs) -> list[Array]:
    return [leaf.detach().cpu().numpy() for leaf in tensors(_run(model, inputs))]


def _session_outputs(session: Any, inputs: Inputs) -> list[Array]:
    names = [value.name for value in session.get_inputs()]
    feed = {name: leaf.detach().cpu().numpy() for name, leaf in zip(names, tensors(inputs), strict=True)}
    try:
        outputs: list[Array] = session.run(None, feed)
    except Exception as error:
        shapes = [tuple(array.shape) for array in feed.values()]
        raise ExportError(f"ONNX Runtime cannot run the exported file on {shapes}", why=str(error)) from error
    return outputs


def _version() -> str:
    return str(getattr(actswap, "__version__", "0"))
