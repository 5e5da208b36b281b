"""The passes together: the first local tolerance that keeps the outputs, or the graph as it was."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_cases import cases

from actswap.onnx.algebra.simplify import simplified_graph
from actswap.onnx.functions import ACON_C, DOMAIN

X = np.random.default_rng(0).standard_normal((2, 8, 5, 7)).astype(np.float32)


def model(**values: float) -> ir.Model:
    """One ACON-C with the given constants in all channels."""
    proto = next(case for case in cases(False) if case.name == "acon_c").model(4, 1)
    for stored, name in zip(proto.graph.initializer, ("p1", "p2", "beta"), strict=True):
        array = np.full([d or 1 for d in stored.dims], values[name], np.float32)
        stored.CopyFrom(ir.to_proto(ir.tensor(array, name=stored.name)))
    for node in proto.graph.node:
        node.name = "site"
    return ir.from_proto(proto)


def operators(found: ir.Model) -> list[str]:
    return [node.op_type for node in found.graph]


def test_a_sharp_acon_is_written_as_relu():
    found = simplified_graph(model(p1=1.0, p2=0.0, beta=1e6), [ACON_C], 18, [X], 1e-4)
    assert operators(found.model) == ["Relu"] and found.plain == {"site": "relu"} and found.functions == ()
    assert DOMAIN not in found.model.opset_imports


@pytest.mark.parametrize("tolerance", [0.0, 1e-9])
def test_the_graph_stays_if_no_tolerance_keeps_the_outputs(tolerance):
    source = model(p1=1.0, p2=5e-5, beta=1e6)  # nearly a ReLU: with 1e-2 it is one
    assert simplified_graph(source, [ACON_C], 18, [X], 1e-2).plain == {"site": "relu"}
    found = simplified_graph(source, [ACON_C], 18, [X], tolerance)
    assert found.model is source and found.functions == (ACON_C,) and found.plain == {}
