"""A portable file made ready for this machine: activations stay in ONNX Runtime's blocked layout.

ONNX Runtime keeps convolutions in NCHWc. Around every operator that it does not know in this layout it converts the
data, and that costs more than the activation. So each activation is first replaced by a placeholder that the runtime
does know: QuickGelu, marked by its alpha. The runtime optimises the graph and saves it. Then the placeholders become
the activations again, with an attribute that says that their data are blocked. The result is valid for one version of
the runtime on one kind of processor.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import NodeProto, helper, numpy_helper

from actswap.errors import ExportError
from actswap.io.atomic import write_bytes
from actswap.onnx.algebra.caps import fuse_caps, sink_caps
from actswap.onnx.algebra.means import take_means
from actswap.onnx.algebra.scales import take_scales
from actswap.onnx.blocked import BLOCKED_DOMAIN, block_size, channels, fits, padded, takes_mean
from actswap.onnx.convolutions import join_convolutions
from actswap.onnx.functions import DOMAIN, Array
from actswap.onnx.library import register
from actswap.onnx.machine import machine_key, prepared_for
from actswap.onnx.parity import compare
from actswap.onnx.runtime import cpu_session, quiet_options

_MARK = 1000.0
KEY = "actswap.prepared"
# Caps after activations. They are elementwise, so they are right on blocked data too, which the runtime does not know.
_FOLLOWING = ("Clip", "Min", "Max")
# The prepared graph does the same arithmetic in another order, so its outputs differ by roundings.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Prepared:
    """A prepared model and how many of its activations stay in the blocked layout."""

    model: onnx.ModelProto
    activations: int
    blocked: int


def prepare(source: onnx.ModelProto, folder: str = "") -> Prepared:
    """Prepare a portable model for this ONNX Runtime on this processor.

    Args:
        source: a model with activations of domain `actswap`; not changed.
        folder: the folder of its external data, if it has any.

    Returns:
        The prepared model, checked against the portable one if inputs can be made up.

    Raises:
        ExportError: the library is missing, or the runtime does not do what the method needs.
    """
    if folder:
        onnx.load_external_data_for_model(source, folder)
    marked, kept = _mark(_rewritten(source))
    total = sum(node.domain == DOMAIN for node in source.graph.node)
    if not kept:
        raise ExportError("no activation of this file stands between convolutions")
    optimised = _optimise(marked)
    block = block_size()
    on_blocks = _blocked_values(optimised)
    blocked = _restore(optimised, kept, block, on_blocks)
    join_convolutions(optimised, on_blocks, block)
    for node in optimised.graph.node:
        if node.domain == DOMAIN:
            node.attribute.append(helper.make_attribute("prepared_for", prepared_for()))
    del optimised.functions[:], optimised.graph.output[len(source.graph.output) :]
    props = {p.key: p.value for p in source.metadata_props}
    helper.set_model_props(optimised, {**props, KEY: machine_key()})
    found = Prepared(optimised, total, blocked)
    _check(source, found)
    return found


def _rewritten(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in the form that is fastest with the kernels."""
    graph = ir.from_proto(source)
    take_scales(graph)
    take_means(graph)
    fuse_caps(graph)
    sink_caps(graph)
    return ir.to_proto(graph)


def _mark(source: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[int, tuple[NodeProto, list[Array]]]]:
    """Put placeholders in; return the model and, by mark, what they stand for."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    initializers = {t.name: t for t in model.graph.initializer}
    kept: dict[int, tuple[NodeProto, list[Array]]] = {}
    after: set[str] = set()
    means: set[str] = set()
    for k, node in enumerate(model.graph.node):
        given = [name for name in _stored(node) if name]
        if any(name not in initializers for name in given):
            continue
        arrays = [numpy_helper.to_array(initializers[name]) for name in given]
        follows = node.domain == "" and node.op_type in _FOLLOWING and node.input[0] in after
        if (node.domain == DOMAIN and fits(node, arrays)) or (follows and all(a.size == 1 for a in arrays)):
            original = NodeProto()
            original.CopyFrom(node)
            kept[len(kept)] = (original, arrays)
            placeholder = helper.make_node(
                "QuickGelu", [node.input[0]], list(node.output), domain="com.microsoft", alpha=_MARK + len(kept) - 1
            )
            # The placeholder does not read the mean. As an output of the graph it is not removed.
            means.update(node.input[len(_stored(node)) + 1 :])
            model.graph.node[k].CopyFrom(placeholder)
            after.update(node.output)
    if not any(entry.domain == "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(means))
    return model, kept


def _stored(node: NodeProto) -> list[str]:
    """Return the inputs that are parameters: all after x, without the mean that some operators take."""
    return list(node.input[1:-1] if takes_mean(node) else node.input[1:])


def _optimise(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        options = options_with_kernels()
        options.optimized_model_filepath = os.path.join(folder, "optimised.onnx")
        cpu_session(model, options)
        return onnx.load(options.optimized_model_filepath)


def _restore(
    model: onnx.ModelProto, kept: Mapping[int, tuple[NodeProto, list[Array]]], block: int, on_blocks: set[str]
) -> int:
    """Put the activations back; return how many of them run on blocked data."""
    graph = model.graph
    count, seen = 0, 0
    for k, node in enumerate(graph.node):
        alpha = {a.name: a.f for a in node.attribute}.get("alpha", 0.0)
        if node.op_type != "QuickGelu" or alpha < _MARK:
            continue
        original, arrays = kept[round(alpha - _MARK)]
        seen += 1
        ours, blocked = original.domain == DOMAIN, node.input[0] in on_blocks
        width = channels(original, arrays) if ours and blocked else None
        if width is not None:
            arrays = padded(original, arrays, width, -(-width // block) * block)
        stored = (f"{original.name or original.output[0]}/{i}" for i in range(len(arrays)))
        inputs = [next(stored) if name else "" for name in _stored(original)]
        named = zip(arrays, (name for name in inputs if name), strict=True)
        graph.initializer.extend(numpy_helper.from_array(array, name) for array, name in named)
        mean = original.input[-1:] if takes_mean(original) else []
        original.input[:], original.output[:] = [node.input[0], *inputs, *mean], [node.output[0]]
        if ours and blocked:
            original.attribute.append(helper.make_attribute("block", block))
            count += 1
        graph.node[k].CopyFrom(original)
    if seen != len(kept):
        raise ExportError("ONNX Runtime removed or merged a placeholder", why=f"{seen} of {len(kept)} are left")
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return count


def _blocked_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of the values in the blocked layout.

    Only operators of the runtime's own domain enter the layout, and only ReorderOutput leaves it. The runtime gives
    blocked data to an operator of another domain only if it knows that this is right; the result is then blocked too.
    """
    found: set[str] = set()
    for node in model.graph.node:
        if node.domain == BLOCKED_DOMAIN:
            blocked = node.op_type != "ReorderOutput"
        else:
            blocked = any(name in found for name in node.input)
        if blocked:
            found.update(node.output)
    return found


def _check(source: onnx.ModelProto, prepared: Prepared) -> None:
    """Compare with the portable model on random data, if its inputs can be made up."""
    feed: dict[str, Array] = {}
    random = np.random.default_rng(0)
    initializers = {t.name for t in source.graph.initializer}
    for value in source.graph.input:
        tensor = value.type.tensor_type
        if value.name in initializers:
            continue
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            return
        shape = [d.dim_value or (2 if axis == 0 else 64) for axis, d in enumerate(tensor.shape.dim)]
        feed[value.name] = random.standard_normal(shape).astype(np.float32)
    plain = cpu_session(source)
    try:
        expected = plain.run(None, feed)
    except Exception:  # the model does not take the guessed sizes: there is nothing to compare
        return
    got = open_prepared(prepared.model.SerializeToString(), None).run(None, feed)
    rows = compare([o.name for o in source.graph.output], expected, got)
    wrong = next((row for row in rows if not row.relative <= _TOLERANCE), None)
    if wrong is not None:
        raise ExportError(
            "the prepared model does not agree with the portable one",
            where=f"output {wrong.name}",
            why=f"relative error {wrong.relative:.3g}",
        )


def options_with_kernels() -> Any:
    """Return quiet session options with the project's kernels registered.

    Raises:
        ExportError: the library of the kernels is missing or does not fit this ONNX Runtime.
    """
    options = quiet_options()
    missing = register(options)
    if missing:
        raise ExportError("the kernels cannot be used", why=missing)
    return options


def open_prepared(data: str | bytes, options: Any) -> Any:
    """Open a prepared model; the library must be registered with `options`, None makes new ones."""
    import onnxruntime

    if options is None:
        options = options_with_kernels()
    level = options.graph_optimization_level
    # The graph is optimised already, and optimising it again would take the layout apart.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return cpu_session(data, options)
    finally:
        options.graph_optimization_level = level


def prepare_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Prepared:
    """Write a file for this machine: `actswap export --for-this-machine`.

    To run it elsewhere than in `session`, register the library and set graph optimisation to the basic level.

    Args:
        source: a portable file of `export_onnx`.
        target: the file to write.

    Returns:
        The prepared model, and how many of its activations run on blocked data.

    Raises:
        ExportError: the library is missing, or the runtime does not do what the method needs.
    """
    source, target = Path(source), Path(target)
    found = prepare(onnx.load(source, load_external_data=False), str(source.parent))
    write_bytes(target, found.model.SerializeToString())
    return found
