"""The blocked-layout form of an activation node: ONNX Runtime's NCHWc, channels in blocks of 8 or 16.

In that layout the channel count is padded with channels of zeros to a multiple of the block. Parameters are padded so
that those channels stay zero, or at least finite if one value serves all channels.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper

from actswap.errors import ExportError
from actswap.onnx.functions import DOMAIN, Array
from actswap.onnx.runtime import cpu_session, quiet_options

# Operators of ONNX Runtime on that layout.
BLOCKED_DOMAIN = "com.microsoft.nchwc"
_POOLING = ("MetaAcon", "DyReLU")


def takes_mean(node: NodeProto) -> bool:
    """True if the last input is the mean, computed from another tensor than x (algebra/means.py)."""
    return node.domain == DOMAIN and "Mean" in node.op_type


def fits(node: NodeProto, arrays: list[Array]) -> bool:
    """True if this node can run on blocked data: channels on axis 1 of four, or one set of parameters.

    A mean over the channels must leave out the padded ones, so its parameters must tell how many are real.
    """
    if node.op_type.startswith(_POOLING):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if channels(node, arrays) == 1 and not takes_mean(node):
            return False
        return attributes.get("dim") == 1 and len(attributes.get("view", ())) == 4
    leading = _leading(node)
    return all(array.ndim - leading in (0, 3) for array in arrays)


def channels(node: NodeProto, arrays: list[Array]) -> int | None:
    """Return the number of channels, None if the parameters do not tell it."""
    if node.op_type.startswith("MetaAcon"):
        axes = [(arrays[5], 0), (arrays[0], 0), (arrays[2], 0)] + [(arrays[3], 1)] * (not takes_mean(node))
        return max(int(a.shape[axis]) for a, axis in axes if a.ndim)
    if node.op_type.startswith("DyReLU"):
        rows = arrays[5].size
        pooled = 1 if takes_mean(node) else arrays[0].shape[1]
        return int(max(pooled, arrays[2].shape[0] // rows, arrays[4].shape[1]))
    leading = _leading(node)
    return max((int(a.shape[leading]) for a in arrays if a.ndim > leading), default=None)


def padded(node: NodeProto, arrays: list[Array], width: int, to: int) -> list[Array]:
    """Return the parameters for `to` channels, of which `width` are real."""
    if node.op_type.startswith("MetaAcon"):
        p1, p2, scale, w1, b1, w2, b2 = arrays
        return [
            *(_pad(p, 0, to) for p in (p1, p2, scale)),
            w1 if takes_mean(node) else _pooling(w1, width, to),
            b1,
            *(_pad(p, 0, to) for p in (w2, b2)),
        ]
    if node.op_type.startswith("DyReLU"):
        w1, b1, w2, b2, init, lambdas, *spatial = arrays
        rows, hidden = lambdas.size, w1.shape[0]
        w2 = _pad(w2.reshape(rows, -1, hidden), 1, to).reshape(-1, hidden)
        b2 = _pad(b2.reshape(rows, -1), 1, to).reshape(-1)
        if w2.shape[0] != rows or init.shape[1] != 1:
            init = _pad(np.broadcast_to(init, (rows, width)), 1, to)
        spatial = [_pad(spatial[0], 0, to), spatial[1]] if spatial else []
        w1 = w1 if takes_mean(node) else _pooling(w1, width, to)
        return [w1, b1, w2, b2, init, lambdas, *spatial]
    leading = _leading(node)
    found = [_pad(array, leading, to) for array in arrays]
    if leading and found[2].ndim > 1:
        found[2][0, width:] = 1  # the scale of a padded channel: 0 / 1 instead of 0 / 0
        found[2][3:, width:] = found[2][3:, :1]  # slopes like the others': tails of one kind are faster
    return found


def block_size() -> int:
    """Return the channels per block of this ONNX Runtime on this processor.

    The number is read from the weight of a convolution that the runtime has packed.

    Raises:
        ExportError: this ONNX Runtime does not use the layout.
    """
    import os
    import tempfile

    weight = onnx.numpy_helper.from_array(np.ones((1, 64, 3, 3), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, None, 8, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        options = quiet_options()
        options.optimized_model_filepath = os.path.join(folder, "probe.onnx")
        cpu_session(model, options)
        packed = onnx.load(options.optimized_model_filepath)
    for node in packed.graph.node:
        if node.domain == BLOCKED_DOMAIN and node.op_type == "Conv":
            shapes = {t.name: list(t.dims) for t in packed.graph.initializer}
            return int(shapes[node.input[1]][0])
    raise ExportError("this ONNX Runtime does not use a blocked layout on this processor")


def _leading(node: NodeProto) -> int:
    return 1 if node.op_type.startswith(("Pau", "Opau")) else 0


def _pad(array: Array, axis: int, to: int) -> Array:
    """Append zeros along the axis up to length `to`; a value that serves all channels stays alone."""
    if array.ndim <= axis or array.shape[axis] == 1:
        return array
    return np.pad(array, [(0, to - n if k == axis else 0) for k, n in enumerate(array.shape)])


def _pooling(w1: Array, width: int, to: int) -> Array:
    """Return the weights of the pooled means; a weight for the mean over all channels counts only the real ones."""
    if w1.shape[1] == 1:
        w1 = np.repeat(w1 / np.float32(width), width, axis=1)
    return np.pad(w1, ((0, 0), (0, to - w1.shape[1])))
