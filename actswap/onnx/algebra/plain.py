"""Activations that have become a plain operator are written as that operator.

Requires, per node: no pooling, constant parameters, and the range of its input in a run. Ensures, for every input up to
16 times as large, of either sign and in every channel: the operator differs from the activation by at most `tolerance`
times the larger of the value itself and the largest value on the range. This is checked on a grid that is dense around
0. The grid reaches far beyond the range because one run must not decide what the file computes. Nothing else changes. A
ReLU and a cap after it become one Clip, which runtimes fuse into a convolution. Candidates, cheapest first:

1. Identity, Relu, LeakyRelu and PRelu with the slopes that the activation has far out,
2. HardSwish,
3. x Sigmoid(alpha x): SiLU, QuickGELU; an ACON without a second slope becomes a Swish of this project with one beta.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from actswap.onnx.algebra.caps import cap_of
from actswap.onnx.algebra.values import constant, initializer, only_reader
from actswap.onnx.functions import DOMAIN, Array
from actswap.onnx.runtime import cpu_session

_POINTS = 129
_STANDARD = (1.0, 1.702)  # SiLU and QuickGELU: what runtimes know as one operator
_FAR = 16.0  # times the largest input seen: how far out a candidate must agree
_POOLING = ("MetaAcon", "DyReLU")
_RATIONAL = ("Pau", "Opau")

Range = tuple[Array, Array]


@dataclass(frozen=True)
class Plain:
    """An operator and its constant, and how the report calls it."""

    op: str
    text: str
    number: Array | None = None


@dataclass(frozen=True)
class Close:
    """A candidate, and its largest error relative to the activation's largest value."""

    plain: Plain
    error: float


def static_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes of the project whose parameters are constants and which do not pool."""
    return [
        node
        for node in model.graph
        if node.domain == DOMAIN
        and not node.op_type.startswith(_POOLING)
        and all(constant(value) is not None for value in node.inputs[1:])
    ]


def channel_axis(node: ir.Node) -> int | None:
    """The channel axis counted from the end, negative; None for one set of parameters."""
    leading = 1 if node.op_type.startswith(_RATIONAL) else 0
    ranks = [array.ndim - leading for value in node.inputs[1:] if (array := constant(value)) is not None]
    return -max(ranks, default=0) or None


def ranges(x: Array, axis: int | None) -> Range:
    """Smallest and largest finite value per channel, (C,), or (1,) without an axis."""
    rows = x.reshape(1, -1) if axis is None else np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    finite = np.isfinite(rows)
    return np.where(finite, rows, np.inf).min(1), np.where(finite, rows, -np.inf).max(1)


def closeness(
    model: ir.Model, seen: Mapping[str, Range], bodies: Sequence[onnx.FunctionProto]
) -> dict[str, list[Close]]:
    """How close every activation is to every candidate.

    Args:
        model: a graph with nodes of domain `actswap`.
        seen: by node name, the range of its input (see `ranges`).
        bodies: the functions of the nodes.

    Returns:
        By node name, the candidates, cheapest first.
    """
    functions = {body.name: body for body in bodies}
    opset = model.graph.opset_imports.get("", 18)
    found: dict[str, list[Close]] = {}
    for node in static_nodes(model):
        range_ = seen.get(str(node.name)) if node.op_type in functions else None
        grid = None if range_ is None else _grid(range_)
        if grid is None:
            continue
        y = _evaluate(node, functions[node.op_type], grid, channel_axis(node), opset)
        seen_there = np.abs(grid) <= np.abs(grid).max() / _FAR
        size = np.maximum(np.abs(y), np.abs(y[seen_there]).max() or 1.0)
        found[str(node.name)] = [
            Close(plain, float((np.abs(values - y) / size).max()))
            for plain, values in _candidates(node, grid, y, opset)
        ]
    return found


def write_plain(model: ir.Model, close: Mapping[str, list[Close]], tolerance: float) -> dict[str, str]:
    """Replace what is close enough, in place; return what was written, by node name."""
    written = {}
    for node in static_nodes(model):
        fitting = (c.plain for c in close.get(str(node.name), ()) if c.error <= tolerance)
        plain = next(fitting, None)
        if plain is not None:
            written[str(node.name)] = _write(model.graph, node, plain, channel_axis(node))
    return written


def _grid(range_: Range) -> Array | None:
    """(C, points), the same for all channels: both signs, far beyond what was seen."""
    ends = np.abs(np.asarray(range_, np.float64))
    far = _FAR * ends.max() if ends.size and np.isfinite(ends).all() else 0.0
    if far == 0.0:
        return None
    # Dense around 0, because a sharp activation differs most from a kink there.
    near = np.geomspace(1e-7, 1, 96)
    points = far * np.unique(np.concatenate([np.linspace(-1, 1, _POINTS), near, -near]))
    return np.tile(points, (ends.shape[1], 1))


def _evaluate(node: ir.Node, body: onnx.FunctionProto, grid: Array, axis: int | None, opset: int) -> Array:
    """The activation on the grid, by its body, in ONNX Runtime."""
    x = grid.astype(np.float32)
    if axis is None:
        shaped = x.reshape(-1)
    else:  # channels at their axis, points before them or on the next one
        shaped = x.T if axis == -1 else x.reshape(*x.shape, *(1,) * (-axis - 2))
    names = [f"p{k}" for k in range(len(node.inputs) - 1)]
    arrays = [np.asarray(constant(value), np.float32) for value in node.inputs[1:]]
    proto = onnx.helper.make_node(node.op_type, ["x", *names], ["y"], domain=DOMAIN)
    proto.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shaped.shape) for n in "xy"]
    stored = [onnx.numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)]
    graph = onnx.helper.make_graph([proto], "one", ends[:1], ends[1:], stored)
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(DOMAIN, 1)]
    one = onnx.helper.make_model(graph, opset_imports=imports, functions=[body], ir_version=10)
    y = np.asarray(cpu_session(one).run(None, {"x": shaped})[0], np.float64)
    values: Array = y.T if axis == -1 else y.reshape(grid.shape)
    return values


def _candidates(node: ir.Node, x: Array, y: Array, opset: int) -> Iterator[tuple[Plain, Array]]:
    yield Plain("Identity", "identity"), x
    yield Plain("Relu", "relu"), np.maximum(x, 0)
    slopes = _slopes(x, y)
    if slopes is not None:
        one = np.median(slopes)
        for slope, name in ((np.float64(round(float(one), 7)), "LeakyRelu"), (slopes, "PRelu")):
            values = np.where(x >= 0, x, x * (slope if slope.ndim == 0 else slope[:, None]))
            yield Plain(name, f"{name.lower()} {_said(slope)}", slope), values
    if opset >= 14:
        yield Plain("HardSwish", "hardswish"), x * np.clip(x / 6 + 0.5, 0, 1)
    for alpha in dict.fromkeys((*_STANDARD, *_sharpness(node))):
        with np.errstate(over="ignore"):
            values = x / (1 + np.exp(-alpha * x))
        yield Plain("Swish", f"x sigmoid({alpha:g} x)", np.float64(alpha)), values


def _said(slope: Array) -> str:
    return f"{float(slope):g}" if slope.ndim == 0 else f"{slope.min():g}..{slope.max():g}"


def _slopes(x: Array, y: Array) -> Array | None:
    """Return the slope of every channel at the lower end of its range; 0 if the range has no negative part."""
    at = x.argmin(1)[:, None]
    low, value = np.take_along_axis(x, at, 1)[:, 0], np.take_along_axis(y, at, 1)[:, 0]
    return None if not (low < 0).any() else np.where(low < 0, value / np.where(low < 0, low, 1.0), 0.0)


def _sharpness(node: ir.Node) -> tuple[float, ...]:
    """The beta of a Swish, beta (p1 - p2) of an ACON: the median over channels."""
    arrays = [constant(value) for value in node.inputs[1:]]
    if any(array is None for array in arrays):
        return ()
    if node.op_type == "Swish":
        beta = arrays[0]
        return (float(np.median(beta)),) if beta is not None and beta.size > 1 else ()
    if node.op_type == "AconB":
        return (float(np.median((1 - arrays[0]) * arrays[1])),)  # type: ignore[operator]
    if node.op_type == "AconC":
        return (float(np.median((arrays[0] - arrays[1]) * arrays[2])),)  # type: ignore[operator]
    return ()


def _write(graph: ir.Graph, node: ir.Node, plain: Plain, axis: int | None) -> str:
    """Put the operator in place of the node; if it and the cap after it make one Clip, in place of both."""
    x, last, text = node.inputs[0], node, plain.text
    assert x is not None
    half = x.dtype == ir.DataType.FLOAT16
    dtype = np.float16 if half else np.float32

    def stored(name: str, array: Array) -> ir.Value:
        return initializer(graph, f"{node.name}.{name}", np.asarray(array, dtype))

    reader = only_reader(node.outputs[0])
    cap = None if reader is None else cap_of(reader)
    if plain.op == "Relu" and reader is not None and cap is not None and cap > 0:
        new = [ir.node("Clip", [x, stored("low", np.float32(0)), reader.inputs[-1]])]
        last, text = reader, f"relu capped at {cap:g}"
    elif plain.op == "Swish":
        alpha = float(plain.number)  # type: ignore[arg-type]
        if alpha not in _STANDARD:  # one node of ours is as fast as three without the kernels, and faster with them
            made = ir.node("Swish", [x, stored("beta", np.float32(alpha))], domain=DOMAIN)
            return _put(node, node, [made], text)
        steps = [] if alpha == 1 else [ir.node("Mul", [x, stored("alpha", np.float32(alpha))])]
        sigmoid = ir.node("Sigmoid", [steps[0].outputs[0] if steps else x])
        new = [*steps, sigmoid, ir.node("Mul", [x, sigmoid.outputs[0]])]
    elif plain.op == "LeakyRelu":
        new = [ir.node("LeakyRelu", [x], {"alpha": float(plain.number)})]  # type: ignore[arg-type]
    elif plain.op == "PRelu":
        slopes = np.asarray(plain.number)
        shape = () if axis is None else (slopes.size,) + (1,) * (-axis - 1)
        new = [ir.node("PRelu", [x, stored("slope", slopes.reshape(shape or (1,)))])]
    else:
        new = [ir.node(plain.op, [x])]
    return _put(node, last, new, text)


def _put(node: ir.Node, last: ir.Node, new: Sequence[ir.Node], text: str) -> str:
    """Replace `node`, and `last` if it is another node, by the new nodes."""
    graph = node.graph
    assert graph is not None
    new[-1].name = node.name
    old, made = last.outputs[0], new[-1].outputs[0]
    made.name, made.shape, made.type = old.name, old.shape, old.type
    gone = [node] if last is node else [last, node]
    ir.convenience.replace_nodes_and_values(graph, gone[0], gone, new, [old], [made])
    return text
