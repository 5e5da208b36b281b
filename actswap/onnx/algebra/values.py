"""What a pass asks of a graph's values: constants, and who reads them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from actswap.onnx.functions import Array


def constant(value: ir.Value | None) -> Array | None:
    """Return the value of an initializer or of a Constant node; None for anything that depends on an input."""
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def number(value: ir.Value | None) -> float | None:
    """Return a constant that is one number; None for anything else."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the only reader of a value; None if it is read more than once, or is an output of the graph."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Store a constant under a name of its own."""
    unique, k = name, 1
    while unique in graph.initializers:
        unique, k = f"{name}@{k}", k + 1
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
