"""Gates that pool the narrow tensor before a convolution of 1 x 1: the same network, and only where it is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_cases import C, Case, cases

from actswap.errors import ExportError
from actswap.onnx.algebra.means import take_means
from actswap.onnx.library import find_library
from actswap.onnx.prepare import open_prepared, prepare

NARROW = 3
GATED = [
    pytest.param(case, id=f"{case.label}-{'layer' if shared else 'channel'}")
    for shared in (False, True)
    for case in cases(shared)
    if case.name in ("meta_acon", "dy_relu")
]
needs_library = pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")


def after_convolution(case: Case, weight: torch.Tensor, bias: torch.Tensor, **attributes: Any) -> onnx.ModelProto:
    model = case.model(4, 1)
    model.graph.node[0].input[0] = "inner"
    model.graph.node.insert(0, helper.make_node("Conv", ["x", "weight", "bias"], ["inner"], **attributes))
    for name, tensor in (("weight", weight), ("bias", bias)):
        model.graph.initializer.append(numpy_helper.from_array(tensor.numpy(), name))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = weight.shape[1]
    return model


def taken(model: onnx.ModelProto) -> int:
    return take_means(ir.from_proto(model))


@needs_library
@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("case", GATED)
def test_the_prepared_network_is_the_same(case: Case, samples: int) -> None:
    torch.manual_seed(samples)
    weight, bias, x = torch.randn(C, NARROW, 1, 1), torch.randn(C), torch.randn(samples, NARROW, 5, 7)
    model = after_convolution(case, weight, bias)
    found = prepare(model)
    assert found.blocked == 1 and [n.op_type for n in found.model.graph.node if "Mean" in n.op_type]
    assert [output.name for output in found.model.graph.output] == ["y"]
    inner = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double())
    want = Case(case.label, case.name, {k: t.double() for k, t in case.tensors.items()}, case.scalars).formula(inner, 1)
    got = open_prepared(found.model.SerializeToString(), None).run(None, {"x": x.numpy()})[0]
    # Sums of at most 8 terms in float32, in another order: some 50 roundings of the largest value.
    assert np.abs(got - want.numpy()).max() <= 50 * 2**-24 * np.abs(want.numpy()).max()


def test_only_where_the_convolution_widens_and_the_mean_goes_through() -> None:
    case = next(case for case in cases(False) if case.name == "meta_acon")
    wide, bias = torch.randn(C, NARROW, 1, 1), torch.randn(C)
    assert taken(after_convolution(case, wide, bias)) == 1
    assert taken(after_convolution(case, wide, bias, strides=[1, 1], pads=[0, 0, 0, 0], group=1)) == 1
    assert taken(after_convolution(case, wide, bias, strides=[2, 2])) == 0
    assert taken(after_convolution(case, wide, bias, pads=[0, 1, 0, 1])) == 0
    assert taken(after_convolution(case, torch.randn(C, NARROW, 3, 3), bias)) == 0
    assert taken(after_convolution(case, torch.randn(C, C, 1, 1), bias)) == 0
    assert taken(after_convolution(case, torch.randn(C, 2, 1, 1), bias, group=2)) == 0
    foreign = after_convolution(case, wide, bias)
    del foreign.graph.node[1].attribute[:]
    assert taken(foreign) == 0
    variable = after_convolution(case, wide, bias)
    weight = variable.graph.initializer[-2]
    variable.graph.input.append(helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, list(weight.dims)))
    assert taken(variable) == 0


def test_activations_of_one_source_share_its_mean() -> None:
    case = next(case for case in cases(False) if case.name == "dy_relu")
    model = after_convolution(case, torch.randn(C, NARROW, 1, 1), torch.randn(C))
    conv, act = model.graph.node
    model.graph.node.append(helper.make_node("Conv", ["x", *conv.input[1:]], ["other"]))
    second = model.graph.node.add()
    second.CopyFrom(act)
    second.input[0], second.output[0] = "other", "z"
    graph = ir.from_proto(model)
    assert take_means(graph) == 2
    assert [node.op_type for node in graph.graph].count("GlobalAveragePool") == 1


@needs_library
def test_means_that_do_not_suit_the_weights_are_refused() -> None:
    case = next(case for case in cases(False) if case.name == "meta_acon")
    graph = ir.from_proto(after_convolution(case, torch.randn(C, NARROW, 1, 1), torch.randn(C)))
    take_means(graph)
    model = ir.to_proto(graph)
    next(node for node in model.graph.node if node.op_type == "MetaAconMean").input[-1] = "inner"
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(find_library()))
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="the means do not suit the weights"):
        session.run(None, {"x": np.zeros((1, NARROW, 2, 2), np.float32)})


@needs_library
def test_a_mean_over_an_unknown_number_of_channels_is_not_blocked() -> None:
    """Parameters of one set do not tell which channels are padding."""
    case = next(case for case in cases(True) if case.label == "meta_acon_layer")
    with pytest.raises(
        ExportError, match="no activation of this file stands in the blocked layout, between convolutions"
    ):
        prepare(after_convolution(case, torch.randn(C, NARROW, 3, 3), torch.randn(C)))
