"""Scales of a smooth maximum go into the linear layers around it.

f(x) = d x sigmoid(beta d x) + p2 x, with d = p1 - p2, is after the substitution Y = beta d x

    f = (1 / beta) (Y sigmoid(Y) + s Y),    s = p2 / d,

so beta d goes into the layer before, 1 / beta into the layers after, and `SwishSkip(Y, 1, s)` is left: one SiLU, and
one product with a constant per channel, or none if p2 is 0.

Requires an AconC, AconB or Swish in float32 with constant parameters. Before it: a Conv, a Gemm, or a MatMul with or
without a constant Add, whose weights are constants and whose result has no other reader. After it: only such layers. A
cap at a number may stand on either side if all channels are scaled by the same positive number. A cap of pictures may
always stand after it: a convolution of its own then scales back before the cap (see `scales`). beta d lies between 1e-6
and 1e6 in size in all channels, and s below 1e3. If a requirement fails, the node stays as it is.

Ensures the same values up to rounding: every product is the former one times a constant of its channel, so the relative
error is a few roundings, 2^-22.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from actswap.onnx.algebra.caps import cap_of
from actswap.onnx.algebra.scales import scale_before
from actswap.onnx.algebra.values import constant, initializer, only_reader
from actswap.onnx.functions import DOMAIN, SWISH, SWISH_SKIP, Array

_LARGEST, _LARGEST_SKIP = 1e6, 1e3


@dataclass(frozen=True)
class _Change:
    """A constant input of a node, and its new value."""

    node: ir.Node
    index: int
    array: Array


def fold_scales(model: ir.Model) -> tuple[str, ...]:
    """Fold in place; return the names of the nodes whose scales went elsewhere."""
    return tuple(str(node.name) for node in list(model.graph) if _fold(model.graph, node))


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    parameters = _parameters(node)
    x = node.inputs[0]
    if parameters is None or x is None or x.dtype != ir.DataType.FLOAT or only_reader(x) is not node:
        return False
    d, p2, beta, rank = parameters
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale, skip, back = beta * d, p2 / d, 1 / beta
    sizes = np.abs(np.broadcast_arrays(scale, back)).ravel()
    if not (np.isfinite(sizes).all() and sizes.min() >= 1 / _LARGEST and sizes.max() <= _LARGEST):
        return False
    if not (np.isfinite(skip).all() and np.abs(skip).max() <= _LARGEST_SKIP):
        return False
    y, source, changes = node.outputs[0], x, []
    reader, earlier = only_reader(y), x.producer()
    behind = None  # a cap that gets a convolution of its own, which scales back
    if reader is not None and cap_of(reader) is not None:
        y = reader.outputs[0]
        if _picture_channels(x):
            behind = reader
        elif _one_positive(back):
            changes.append(_scaled_cap(reader, 1 / back.reshape(-1)[0]))
        else:
            return False
    if earlier is not None and cap_of(earlier) is not None:
        inner = earlier.inputs[0]
        if not _one_positive(scale) or inner is None or only_reader(inner) is not earlier:
            return False
        source = inner
        changes.append(_scaled_cap(earlier, scale.reshape(-1)[0]))
    before = _before(source, scale.reshape(-1), rank)
    after: list[_Change] | None = []
    if behind is None:
        after = None if y.is_graph_output() or not y.uses() else _after(y, back.reshape(-1), rank)
    if before is None or after is None:
        return False
    changes += [*before, *after]
    for change in changes:
        old = change.node.inputs[change.index]
        value = initializer(graph, f"{old.name if old else node.name}.scaled", np.asarray(change.array, np.float32))
        change.node.replace_input_with(change.index, value)
    inputs = [x, initializer(graph, f"{node.name}.one", np.asarray(1, np.float32))]
    function = SWISH
    if skip.any():
        function = SWISH_SKIP
        inputs.append(initializer(graph, f"{node.name}.skip", np.asarray(skip, np.float32)))
    new = ir.Node(DOMAIN, function.op, inputs, num_outputs=1, name=node.name)
    old_output, made = node.outputs[0], new.outputs[0]
    made.name, made.shape, made.type = old_output.name, old_output.shape, old_output.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [old_output], [made])
    if behind is not None:
        scale_before(graph, behind, back, _picture_channels(x), str(node.name))
    return True


def _picture_channels(x: ir.Value) -> int:
    """Return the channels of a picture that a convolution makes; 0 for anything else."""
    node = x.producer()
    if node is None or node.op_type != "Conv" or x.shape is None or len(x.shape) != 4:
        return 0
    weight = constant(node.inputs[1])
    return 0 if weight is None else int(weight.shape[0])


def _one_positive(scale: Array) -> bool:
    return not np.ptp(scale) and scale.min() > 0


def _scaled_cap(cap: ir.Node, factor: float) -> _Change:
    limit = cap_of(cap)
    assert limit is not None
    return _Change(cap, len(cap.inputs) - 1, np.float32(limit * factor))


def _parameters(node: ir.Node) -> tuple[Array, Array, Array, int] | None:
    """d, p2 and beta in float64, broadcast against each other, and their number of axes."""
    if node.domain != DOMAIN or node.op_type not in ("AconC", "AconB", "Swish"):
        return None
    found = [constant(value) for value in node.inputs[1:]]
    arrays = [array.astype(np.float64) for array in found if array is not None]
    if len(arrays) < len(found):
        return None
    one, zero = np.ones(()), np.zeros(())
    p1, p2, beta = {"AconC": [], "AconB": [one], "Swish": [one, zero]}[node.op_type] + arrays
    d, p2, beta = np.broadcast_arrays(p1 - p2, p2, beta)
    return d, p2, beta, d.ndim


def _before(x: ir.Value, scale: Array, rank: int) -> list[_Change] | None:
    """Return the changes that make the layer before give scale * x; None if there is no such layer."""
    node = x.producer()
    if node is None or node.domain not in ("", "ai.onnx") or x.is_graph_output():
        return None
    if not _along_channels(node, rank):
        return None
    if node.op_type == "Conv":
        return _weights(node, 1, lambda w: w * scale.reshape(-1, *(1,) * (w.ndim - 1)), scale)
    if node.op_type == "Gemm":
        rows = _flag(node, "transB")
        return _weights(node, 1, lambda w: w * (scale[:, None] if rows else scale[None]), scale)
    if node.op_type == "MatMul":
        return _weights(node, 1, lambda w: w * scale, None)
    if node.op_type == "Add":
        index = next((k for k in (0, 1) if constant(node.inputs[k]) is not None), None)
        inner = None if index is None else node.inputs[1 - index]
        bias = None if index is None else constant(node.inputs[index])
        product = None if inner is None else inner.producer()
        if index is None or inner is None or bias is None or product is None or product.op_type != "MatMul":
            return None
        if only_reader(inner) is not node or bias.ndim > 1:
            return None
        weights = _weights(product, 1, lambda w: w * scale, None)
        return None if weights is None else [*weights, _Change(node, index, bias * scale)]
    return None


def _after(y: ir.Value, scale: Array, rank: int) -> list[_Change] | None:
    """Return the changes after which all readers of y give for y / scale what they gave for y."""
    changes: list[_Change] = []
    for use in y.uses():
        node = use.node
        if node.domain not in ("", "ai.onnx") or use.idx != 0 or not _along_channels(node, rank):
            return None
        if node.op_type == "Conv":
            made = _weights(node, 1, lambda w, n=node: _conv_inputs(w, scale, n), None)  # type: ignore[misc]
        elif node.op_type == "Gemm" and not _flag(node, "transA"):
            rows = not _flag(node, "transB")
            made = _weights(node, 1, lambda w, r=rows: w * (scale[:, None] if r else scale[None]), None)  # type: ignore[misc]
        elif node.op_type == "MatMul":
            made = _weights(node, 1, lambda w: w * scale[:, None], None)
        else:
            return None
        if made is None:
            return None
        changes += made
    return changes


def _conv_inputs(w: Array, scale: Array, node: ir.Node) -> Array:
    """Scale the input channels of a convolution in groups."""
    attribute = node.attributes.get("group")
    groups = attribute.as_int() if attribute is not None else 1
    rows = np.broadcast_to(scale, w.shape[1] * groups).reshape(groups, 1, w.shape[1], *(1,) * (w.ndim - 2))
    scaled: Array = (w.reshape(groups, -1, *w.shape[1:]) * rows).reshape(w.shape)
    return scaled


def _weights(
    node: ir.Node, index: int, change: Callable[[Array], Array], bias_scale: Array | None
) -> list[_Change] | None:
    """Return the changed weight, and the bias if it is scaled too; None if one of them is no constant."""
    w = constant(node.inputs[index])
    if w is None or w.dtype != np.float32 or (node.op_type == "MatMul" and w.ndim != 2):
        return None
    changes = [_Change(node, index, change(w.astype(np.float64)))]
    if bias_scale is not None and len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant(node.inputs[2])
        if bias is None or bias.ndim != 1:
            return None
        changes.append(_Change(node, 2, bias * bias_scale))
    return changes


def _along_channels(node: ir.Node, rank: int) -> bool:
    """True if parameters of `rank` axes lie along the layer's channels: the last axis, except for convolutions."""
    if node.op_type == "Conv":
        w = constant(node.inputs[1])
        return w is not None and rank in (0, w.ndim - 1)
    return rank in (0, 1)


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and bool(attribute.as_int())
