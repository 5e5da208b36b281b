"""The nodes that replace an activation: the operator, inside the shift and the cap of its source."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from actswap import activations
from actswap.activations.base import StartContext
from actswap.errors import UsageError
from actswap.onnx.forms import GraphSite
from actswap.onnx.functions import DOMAIN
from actswap.onnx.replacement import lowered_start, nodes_of
from actswap.sites import Source

SHAPE = (1, 3, 4, 4)


def nodes(source: Source) -> tuple[list[onnx.NodeProto], onnx.GraphProto]:
    spec = activations.get("dy_relu_b")
    start = spec.start(Source("relu"), StartContext())
    graph = onnx.GraphProto()
    return nodes_of(graph, GraphSite("act", source, "x", "y", (0,)), lowered_start(spec, start, SHAPE, 1, {})), graph


def test_a_plain_source_is_one_node_of_the_domain() -> None:
    made, graph = nodes(Source("relu"))
    assert [(n.domain, n.op_type, n.input[0], list(n.output)) for n in made] == [(DOMAIN, made[0].op_type, "x", ["y"])]
    assert {t.name for t in graph.initializer} == set(made[0].input[1:])


def test_a_cap_stays_outside() -> None:
    made, graph = nodes(Source("relu6"))
    assert [n.op_type for n in made[1:]] == ["Clip"] and made[0].output[0] == made[1].input[0]
    (cap,) = (onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == made[1].input[2])
    assert cap == np.float32(6) and list(made[1].output) == ["y"]


def test_what_is_no_operator_is_refused() -> None:
    spec = activations.get("acon_frelu")
    start = spec.start(Source("silu"), StartContext())
    with pytest.raises(UsageError, match="cannot be put into an ONNX file"), torch.no_grad():
        lowered_start(spec, start, SHAPE, 1, {})
