"""Convolution and activation as one operator, in a prepared model: the last pass of `prepare`.

ONNX Runtime fuses ReLU into the convolution before it. A network loses that fusion if its activations change. The
operator `Convolution` brings it back for 1 x 1, 3 x 3 and depthwise convolutions: each piece of the result goes through
the activation while it is in the cache. Weights stay as the runtime has packed them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from actswap.onnx.blocked import BLOCKED_DOMAIN
from actswap.onnx.functions import DOMAIN
from actswap.onnx.library import instruction_set

# Floats in a vector. A block must hold a whole vector: with narrower kernels the runtime's own convolution is faster.
_WIDTHS = {"avx2": 8, "avx512": 16, "avx512bf16": 16}
# Positions at either end of a row that may see beyond the picture, in the depthwise kernel.
_MARGIN = 3
_PLAIN = {"strides": [1, 1], "pads": [0, 0, 0, 0]}


def join_convolutions(model: onnx.ModelProto, blocked: set[str], block: int) -> int:
    """Join activations with the convolutions before them, in place.

    Args:
        model: a prepared model, its activations on blocked data marked by the attribute `block`.
        blocked: names of the values in the blocked layout.
        block: channels of a block.

    Returns:
        The number of activations that were joined.
    """
    if block < _WIDTHS.get(instruction_set(), block + 1):
        return 0
    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    makers = {name: k for k, node in enumerate(graph.node) for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    gone: list[int] = []
    for k, node in enumerate(graph.node):
        if not _takes(node) or uses[node.input[0]] > 1 or node.input[0] not in makers:
            continue
        place = makers[node.input[0]]
        conv = graph.node[place]
        attributes = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
        if (
            not _is_convolution(conv)
            or conv.input[0] not in blocked
            or not _has_kernel(attributes, weights.get(conv.input[1]))
        ):
            continue
        joined = helper.make_node(
            "Convolution",
            [*conv.input[:2], _bias(graph, conv, weights), *(conv.input[3:] or [""]), *node.input[1:]],
            list(node.output),
            name=node.name,
            domain=DOMAIN,
            activation=node.op_type,
            **{key: attributes.get(key, value) for key, value in _PLAIN.items()},
        )
        joined.attribute.extend(node.attribute)
        graph.node[k].CopyFrom(joined)
        gone.append(place)
    for place in sorted(gone, reverse=True):
        del graph.node[place]
    return len(gone)


def _takes(node: NodeProto) -> bool:
    """True for an activation on blocked data; not for DY-ReLU C, whose attention needs all channels first."""
    on_blocks = any(a.name == "block" for a in node.attribute)
    return node.domain == DOMAIN and on_blocks and not node.op_type.startswith("DyReLUC")


def _is_convolution(node: NodeProto) -> bool:
    return node.domain == BLOCKED_DOMAIN and node.op_type == "Conv"


def _has_kernel(attributes: dict[str, Any], weight: onnx.TensorProto | None) -> bool:
    """True if the kernels compute it: 1 x 1, 3 x 3 with a stride of 1 or 2, or one filter per channel."""
    if weight is None or attributes.get("activation"):
        return False
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or set(attributes.get("dilations", [1])) != {1}:
        return False
    outputs, inputs, *size = weight.dims
    group, strides, pads = (attributes.get(key, value) for key, value in (("group", 1), *_PLAIN.items()))
    if inputs == 1 and group == outputs:
        return all(pad <= _MARGIN * stride for pad, stride in zip(pads, [*strides, *strides], strict=True))
    if size == [3, 3]:
        return group == 1 and inputs > 1 and list(strides) in ([1, 1], [2, 2]) and max(pads) <= 1
    return group == 1 and inputs > 1 and size == [1, 1] and {"strides": strides, "pads": pads} == _PLAIN


def _bias(graph: onnx.GraphProto, conv: NodeProto, weights: dict[str, onnx.TensorProto]) -> str:
    if len(conv.input) > 2 and conv.input[2]:
        return str(conv.input[2])
    name = f"{conv.output[0]}/bias"
    graph.initializer.append(numpy_helper.from_array(np.zeros(weights[conv.input[1]].dims[0], np.float32), name))
    return name
