"""The mean that a gate needs, of the smaller tensor before a convolution of 1 x 1.

The mean over the positions passes through such a convolution: mean(W x + b) = W mean(x) + b. If the convolution widens
its input (the expansion of an inverted residual does so six times), the gate of the activation after it need not read
the wide tensor again: `take_means` pools the narrow one, and the gate's first layer becomes w1 W and b1 + w1 b. The
operators that take their mean as an input (`MetaAconMean`, `DyReLUMean`) have kernels and no function body, so they are
for prepared models only.

Requires constants and a convolution of group 1, stride 1 and no padding. If the narrow tensor is infinite, the gate may
be a limit for which the formula gives NaN.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from actswap.onnx.algebra.values import constant, initializer
from actswap.onnx.functions import DOMAIN, Array

# Operator and the place of its first weights among the inputs; the bias is next.
_FIRST = {"MetaAcon": 4, "DyReLU": 1, "DyReLU_1": 1, "DyReLU_3": 1, "DyReLU_4": 1}


def take_means(model: ir.Model) -> int:
    """Let gates pool the input of a widening convolution of 1 x 1, in place; return how many do."""
    count = 0
    pools: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        if node.domain != DOMAIN or node.op_type not in _FIRST or not _over_positions(node):
            continue
        conv = None if node.inputs[0] is None else node.inputs[0].producer()
        layer = None if conv is None else _widening(conv)
        first = _FIRST[node.op_type]
        weight, bias = constant(node.inputs[first]), constant(node.inputs[first + 1])
        if conv is None or layer is None or weight is None or bias is None:
            continue
        source = conv.inputs[0]
        assert source is not None
        wide, offset = layer
        if weight.shape[1] == 1:  # the mean over the channels too
            weight = np.repeat(weight / len(wide), len(wide), axis=1)
        own = weight.astype(np.float64)
        made = {"w1": own @ wide, "b1": bias + own @ offset}
        inputs = list(node.inputs)
        inputs[first : first + 2] = [
            initializer(model.graph, f"{node.name}.{key}", array.astype(np.float32)) for key, array in made.items()
        ]
        if source not in pools:
            pools[source] = _pooled(model.graph, conv, source)
        kind, _, lines = node.op_type.partition("_")
        new = ir.Node(
            DOMAIN,
            f"{kind}Mean{'_' if lines else ''}{lines}",
            [*inputs, pools[source]],
            list(node.attributes.values()),
            num_outputs=1,
            name=node.name,
        )
        new.outputs[0].name, new.outputs[0].shape = node.outputs[0].name, node.outputs[0].shape
        new.outputs[0].type = node.outputs[0].type
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [new], node.outputs, new.outputs)
        count += 1
    return count


def _over_positions(node: ir.Node) -> bool:
    """True if the gate pools pictures with channels on axis 1; a foreign file may lack the attributes."""
    view, dim = node.attributes.get("view"), node.attributes.get("dim")
    return view is not None and dim is not None and len(view.as_ints()) == 4 and dim.as_int() == 1


def _widening(node: ir.Node) -> tuple[Array, Array] | None:
    """Weight (O, I) and bias (O) in float64 of a convolution of 1 x 1 with more outputs than inputs."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return None
    weight = constant(node.inputs[1])
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1, np.float32)
    if weight is None or bias is None or weight.dtype != np.float32 or weight.ndim != 4:
        return None
    attributes = node.attributes
    lists = {key: attributes[key].as_ints() for key in ("strides", "pads") if key in attributes}
    plain = set(lists.get("strides", [1])) == {1} and set(lists.get("pads", [0])) == {0}
    grouped = "group" in attributes and attributes["group"].as_int() != 1
    if weight.shape[2:] != (1, 1) or grouped or not plain or weight.shape[1] >= weight.shape[0]:
        return None
    wide = weight[:, :, 0, 0].astype(np.float64)
    return wide, np.broadcast_to(bias, len(wide)).astype(np.float64)


def _pooled(graph: ir.Graph, before: ir.Node, source: ir.Value) -> ir.Value:
    name = f"{DOMAIN}.mean:{source.name}"
    node = ir.Node("", "GlobalAveragePool", [source], num_outputs=1, name=name)
    value = node.outputs[0]
    value.name, value.type = name, source.type
    if source.shape is not None:
        value.shape = ir.Shape([*source.shape[:2], 1, 1])
    graph.insert_before(before, node)
    return value
