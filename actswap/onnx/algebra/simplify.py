"""The passes in order, on an exported graph, with the outputs compared before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from actswap.activations.base import OnnxFunction
from actswap.onnx.algebra.caps import lift_caps
from actswap.onnx.algebra.fold import fold_scales
from actswap.onnx.algebra.plain import Range, channel_axis, closeness, ranges, static_nodes, write_plain
from actswap.onnx.finalize import attach, body
from actswap.onnx.functions import DOMAIN, SWISH, SWISH_SKIP, Array
from actswap.onnx.parity import compare
from actswap.onnx.runtime import cpu_session

# Largest error of a site. Networks differ widely in what they make of it, so three are tried, the largest first.
_TOLERANCES = (1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class Simplified:
    """A simplified graph and what was done.

    Attributes:
        model: the graph.
        functions: the functions that it uses.
        plain: by site, the operator that was written.
        folded: the sites whose scales are in the layers around them.
    """

    model: ir.Model
    functions: tuple[OnnxFunction, ...]
    plain: Mapping[str, str] = field(default_factory=dict)
    folded: tuple[str, ...] = ()


def simplified_graph(
    model: ir.Model, functions: Sequence[OnnxFunction], opset: int, feed: Sequence[Array], tolerance: float
) -> Simplified:
    """Write plain operators and fold scales, as far as the outputs stay within the tolerance.

    Args:
        model: a graph with nodes of domain `actswap`; not changed.
        functions: their functions.
        opset: version of the standard operators.
        feed: real inputs, in the graph's order; they show the range of each activation's input.
        tolerance: largest difference of an output, relative to its largest absolute value.

    Returns:
        The first of three local tolerances that keeps the outputs, or the graph as it was.
    """
    bodies = [body(function, opset) for function in functions]
    proto = ir.to_proto(model)
    want, seen = _observe(proto, functions, opset, feed)
    close = closeness(model, seen, bodies)
    tried: list[dict[str, str]] = []
    for local in _TOLERANCES:
        changed = ir.from_proto(proto)
        plain = write_plain(changed, close, local)
        lifted = lift_caps(changed)
        folded = fold_scales(changed)
        if plain in tried or not (plain or lifted or folded):
            continue
        tried.append(plain)
        ir.passes.common.RemoveUnusedNodesPass()(changed)
        used = {node.op_type for node in changed.graph if node.domain == DOMAIN}
        if not used:
            changed.opset_imports.pop(DOMAIN, None)
        known = {f.op: f for f in (SWISH, SWISH_SKIP, *functions)}
        kept = tuple(known[op] for op in sorted(used))
        got = _run(ir.to_proto(changed), kept, opset, feed)
        names = [str(output.name) for output in changed.graph.outputs]
        if all(row.relative <= tolerance for row in compare(names, want, got)):
            return Simplified(changed, kept, plain, folded)
    return Simplified(model, tuple(functions))


def _session(proto: onnx.ModelProto, functions: Sequence[OnnxFunction], opset: int) -> Any:
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    attach(whole, functions, opset)
    return cpu_session(whole)


def _run(proto: onnx.ModelProto, functions: Sequence[OnnxFunction], opset: int, feed: Sequence[Array]) -> list[Array]:
    session = _session(proto, functions, opset)
    names = [value.name for value in session.get_inputs()]
    found: list[Array] = session.run(None, dict(zip(names, feed, strict=True)))
    return found


def _observe(
    proto: onnx.ModelProto, functions: Sequence[OnnxFunction], opset: int, feed: Sequence[Array]
) -> tuple[list[Array], dict[str, Range]]:
    """Run the graph; return its outputs, and the ranges of the values before its activations."""
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    count = len(watched.graph.output)
    sites = {}
    for node in static_nodes(ir.from_proto(proto)):
        x, axis = node.inputs[0], channel_axis(node)
        if x is None or x.shape is None or not node.name:
            continue
        rank = len(x.shape)
        axes = [k for k in range(rank) if axis is None or k != rank + axis]
        stored = onnx.numpy_helper.from_array(np.asarray(axes, np.int64), f"{node.name}/axes")
        watched.graph.initializer.append(stored)
        for op in ("ReduceMin", "ReduceMax"):
            name = f"{node.name}/{op}"
            watched.graph.node.append(onnx.helper.make_node(op, [str(x.name), stored.name], [name], keepdims=0))
            watched.graph.output.append(onnx.ValueInfoProto(name=name))
        sites[str(node.name)] = axis
    results = _run(watched, functions, opset, feed)
    ends = iter(results[count:])
    seen = {}
    for name, axis in sites.items():
        low, high = np.asarray(next(ends)), np.asarray(next(ends))
        both = np.stack([low.reshape(-1), high.reshape(-1)])
        seen[name] = ranges(both, None if axis is None else -1)
    return results[:count], seen
