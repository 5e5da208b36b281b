"""The body of an activation in float64, whatever precision it is written in: the reference of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from actswap.errors import ExportError
from actswap.onnx.functions import Array


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


_OPERATORS: Mapping[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Add": np.add,
    "Cast": lambda x: x,
    "CastLike": lambda x, like: x,
    "Div": np.divide,
    "Equal": np.equal,
    "Gather": lambda x, k: np.take(x, k.astype(np.int64), 0),
    "Identity": lambda x: x,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": _sigmoid,
    "Sub": np.subtract,
    "Where": np.where,
}


def evaluate(function: onnx.FunctionProto, inputs: list[Array]) -> Array:
    """Compute a function without attributes in float64.

    Args:
        function: its nodes work value by value, and gather along axis 0.
        inputs: in its order.

    Returns:
        Its output.

    Raises:
        ExportError: it has an operator that is not known here.
    """
    unknown = sorted({node.op_type for node in function.node} - {*_OPERATORS, "Constant"})
    if unknown:
        raise ExportError(f"{function.name} cannot be made a table", why=f"it has the operator {unknown[0]}")
    values: dict[str, Array] = {
        name: np.asarray(array, np.float64) for name, array in zip(function.input, inputs, strict=True)
    }
    with np.errstate(all="ignore"):
        for node in function.node:
            if node.op_type == "Constant":
                values[node.output[0]] = _constant(node)
            else:
                values[node.output[0]] = _OPERATORS[node.op_type](*(values[name] for name in node.input))
    return np.asarray(values[function.output[0]], np.float64)


def _constant(node: onnx.NodeProto) -> Array:
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    return np.asarray(value, np.float64)
