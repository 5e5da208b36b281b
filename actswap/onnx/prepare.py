"""A portable file made ready for this machine: activations stay in ONNX Runtime's blocked layout.

ONNX Runtime keeps convolutions in NCHWc. Around every operator that it does not know in this layout it converts the
data, and that costs more than the activation. So each activation is first replaced by a placeholder that the runtime
does know: QuickGelu, marked by its alpha. The runtime optimises the graph and saves it. Then the placeholders become
the activations again, with an attribute that says that their data are blocked. The result is valid for one version of
the runtime on one kind of processor.

The runtime moves a placeholder into other layouts too: an 8-bit convolution has channels last, and so has what stands
between two of them. Parameters per channel would be read along the wrong axis there. So an activation that does not
come out in the blocked layout is left in place of its placeholder, and the runtime optimises the graph again: what it
does not know, it does not move.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from actswap.onnx.feeds import working_feeds
from actswap.onnx.functions import DOMAIN, Array
from actswap.onnx.library import register
from actswap.onnx.machine import machine_key, prepared_for
from actswap.onnx.parity import OutputParity, compare, ranges, worst
from actswap.onnx.runtime import cpu_session, quiet_options

_MARK = 1000.0
KEY = "actswap.prepared"
# Caps after activations. They are elementwise, so they are right on blocked data too, which the runtime does not know.
_FOLLOWING = ("Clip", "Min", "Max")
# The prepared graph does the same arithmetic in another order, so its outputs differ by roundings.
_TOLERANCE = 1e-3
# Steps of 8 bits turn a rounding into a step. What two ways of the runtime itself differ by is allowed, and twice that,
# unless it is so much that a wrong result could hide in it.
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "DynamicQuantize", "MatMulInteger", "ConvInteger")
_NOISE_FACTOR = 2.0
_MOST_NOISE = 0.1


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
        The prepared model, checked against the portable one.

    Raises:
        ExportError: the library is missing, the runtime does not do what the method needs, or the result cannot be
            checked.
    """
    if folder:
        onnx.load_external_data_for_model(source, folder)
    total = sum(node.domain == DOMAIN for node in source.graph.node)
    optimised, kept, on_blocks = _in_blocked_layout(_rewritten(source))
    block = block_size()
    blocked = _restore(optimised, kept, block)
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


_Kept = dict[int, tuple[NodeProto, list[Array]]]  # by mark: the node, and its parameters


def _in_blocked_layout(source: onnx.ModelProto) -> tuple[onnx.ModelProto, _Kept, set[str]]:
    """Let the runtime optimise the graph with placeholders, all of which stand in the blocked layout.

    Returns:
        The optimised graph, what its placeholders stand for, and the names of its blocked values.
    """
    wanted: set[str] | None = None
    while True:
        marked, kept = _mark(source, wanted)
        if not kept:
            raise ExportError("no activation of this file stands in the blocked layout, between convolutions")
        optimised = _optimise(marked)
        on_blocks = _blocked_values(optimised)
        marks = [mark for mark, node in _placeholders(optimised) if node.input[0] in on_blocks]
        if len(marks) == len(kept):
            return optimised, kept, on_blocks
        wanted = {kept[mark][0].output[0] for mark in marks}


def _placeholders(model: onnx.ModelProto) -> Iterator[tuple[int, NodeProto]]:
    for node in model.graph.node:
        alpha = {a.name: a.f for a in node.attribute}.get("alpha", 0.0)
        if node.op_type == "QuickGelu" and alpha >= _MARK:
            yield round(alpha - _MARK), node


def _mark(source: onnx.ModelProto, wanted: set[str] | None) -> tuple[onnx.ModelProto, _Kept]:
    """Put placeholders in; return the model and, by mark, what they stand for.

    Args:
        source: the graph; not changed.
        wanted: outputs of the nodes that get one; None is all that can be blocked.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source)
    initializers = {t.name: t for t in model.graph.initializer}
    kept: _Kept = {}
    after: set[str] = set()
    means: set[str] = set()
    for k, node in enumerate(model.graph.node):
        given = [name for name in _stored(node) if name]
        if any(name not in initializers for name in given) or (wanted is not None and node.output[0] not in wanted):
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


def _restore(model: onnx.ModelProto, kept: _Kept, block: int) -> int:
    """Put the activations back; return how many of them run on blocked data."""
    graph = model.graph
    count, seen = 0, 0
    for mark, node in _placeholders(model):
        original, arrays = kept[mark]
        seen += 1
        ours = original.domain == DOMAIN
        width = channels(original, arrays) if ours else None
        if width is not None:
            arrays = padded(original, arrays, width, -(-width // block) * block)
        stored = (f"{original.name or original.output[0]}/{i}" for i in range(len(arrays)))
        inputs = [next(stored) if name else "" for name in _stored(original)]
        named = zip(arrays, (name for name in inputs if name), strict=True)
        graph.initializer.extend(numpy_helper.from_array(array, name) for array, name in named)
        mean = original.input[-1:] if takes_mean(original) else []
        original.input[:], original.output[:] = [node.input[0], *inputs, *mean], [node.output[0]]
        if ours:
            original.attribute.append(helper.make_attribute("block", block))
            count += 1
        node.CopyFrom(original)
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
    """Compare with the portable model on inputs at the scale that the file has seen; no proof, no prepared model."""
    plain = cpu_session(source)
    feeds, why = working_feeds(source, lambda feed: plain.run(None, dict(feed)))
    if not feeds:
        raise ExportError("the prepared model cannot be checked", why=why)
    names = [o.name for o in source.graph.output]
    expected = [plain.run(None, dict(feed)) for feed in feeds]
    seen = ranges(expected)

    def differences(session: Any) -> tuple[OutputParity, ...]:
        runs = (session.run(None, dict(feed)) for feed in feeds)
        return worst(*(compare(names, want, got, seen) for want, got in zip(expected, runs, strict=True)))

    limits = [max(_TOLERANCE, each.rounding) for each in seen]
    if any(node.op_type.startswith(_QUANTISED) for node in source.graph.node):
        noise = [_NOISE_FACTOR * row.relative for row in differences(cpu_session(source, _unoptimised()))]
        limits = [max(pair) for pair in zip(limits, noise, strict=True)]
    rows = differences(open_prepared(prepared.model.SerializeToString(), None))
    wrong = next((r for r, limit in zip(rows, limits, strict=True) if not r.relative <= limit <= _MOST_NOISE), None)
    if wrong is not None:
        raise ExportError(
            "the prepared model does not agree with the portable one",
            where=f"output {wrong.name}",
            why=f"relative error {wrong.relative:.3g}",
        )


def _unoptimised() -> Any:
    import onnxruntime

    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


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

    >>> import tempfile, torch, actswap
    >>> layers = [torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3)]
    >>> model, x = torch.nn.Sequential(*layers), torch.randn(1, 3, 16, 16)
    >>> converted = actswap.convert(model, "acon_c", x).model
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
    ...     _ = actswap.export_onnx(converted, x, folder + "/model.onnx")
    ...     prepared = prepare_file(folder + "/model.onnx", folder + "/here.onnx")
    >>> prepared.blocked  # doctest: +SKIP
    1
    """
    source, target = Path(source), Path(target)
    found = prepare(onnx.load(source, load_external_data=False), str(source.parent))
    write_bytes(target, found.model.SerializeToString())
    return found
