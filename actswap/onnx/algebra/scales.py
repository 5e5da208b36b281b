"""A scale per channel between an activation and its cap: a depthwise convolution for runtimes, nothing for kernels.

`scale_before` puts a convolution of 1 x 1 with one weight per channel before a cap. It computes the product that a Mul
would, bit for bit, and runtimes fuse the Clip into it; behind anything else a Clip leaves their blocked layout, which
costs more than the pass.

`take_scales` is the way back, for models that kernels run: w (x sigmoid(b x) + s x) is the ACON-C with the slopes
w (1 + s) and w s and beta = b / w. It requires constants, one reader, and w other than 0. With s up to 1e3, which is
all that `fold` writes, the difference of the slopes keeps a relative error of 1e3 roundings, 6e-5.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from actswap.onnx.algebra.values import constant, initializer, only_reader
from actswap.onnx.functions import DOMAIN, Array


def scale_before(graph: ir.Graph, cap: ir.Node, scale: Array, channels: int, name: str) -> None:
    """Multiply what a cap reads by one number per channel of axis 1."""
    x = cap.inputs[0]
    assert x is not None
    weight = np.broadcast_to(scale.reshape(-1), (channels,)).astype(np.float32).reshape(channels, 1, 1, 1)
    inputs = [x, initializer(graph, f"{name}.scale", weight)]
    attributes = [ir.AttrInt64("group", channels), ir.AttrInt64s("kernel_shape", [1, 1])]
    node = ir.Node("", "Conv", inputs, attributes, num_outputs=1, name=f"{name}.scale")
    node.outputs[0].type, node.outputs[0].shape = x.type, x.shape
    graph.insert_before(cap, node)
    cap.replace_input_with(0, node.outputs[0])


def take_scales(model: ir.Model) -> int:
    """Put such convolutions into the activations before them, in place; return how many."""
    count = 0
    for node in list(model.graph):
        if node.domain != DOMAIN or node.op_type not in ("Swish", "SwishSkip"):
            continue
        reader = only_reader(node.outputs[0])
        scale = None if reader is None else _scale(reader)
        if reader is None or scale is None or reader.outputs[0].is_graph_output():
            continue
        arrays = [constant(value) for value in node.inputs[1:]]
        beta, skip = arrays[0], arrays[1] if len(arrays) > 1 else np.zeros(())
        if beta is None or skip is None:
            continue
        values = {"p1": scale * (1 + skip), "p2": scale * skip, "beta": beta / scale}
        inputs = [
            initializer(model.graph, f"{node.name}.{key}", np.asarray(value, np.float32))
            for key, value in values.items()
        ]
        new = ir.Node(DOMAIN, "AconC", [node.inputs[0], *inputs], num_outputs=1, name=node.name)
        old, made = reader.outputs[0], new.outputs[0]
        made.name, made.shape, made.type = old.name, old.shape, old.type
        ir.convenience.replace_nodes_and_values(model.graph, node, [reader, node], [new], [old], [made])
        count += 1
    return count


def _scale(node: ir.Node) -> Array | None:
    """The (C, 1, 1) factors of a convolution that does nothing else, in float64."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
        return None
    weight, group = constant(node.inputs[1]), node.attributes.get("group")
    if (
        set(node.attributes) != {"group", "kernel_shape"}
        or weight is None
        or weight.dtype != np.float32
        or group is None
    ):
        return None
    if weight.shape != (group.as_int(), 1, 1, 1) or not np.all(weight):
        return None
    return weight.astype(np.float64).reshape(-1, 1, 1)
