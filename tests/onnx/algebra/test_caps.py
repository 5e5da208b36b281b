"""Caps before an activation and inside it compute the same."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from algebra_nets import ROUNDING, Pair, X, acon, both, convs
from torch import Tensor, nn

from actswap.activations.bounded import Bounded
from actswap.onnx.algebra.caps import fuse_caps, lift_caps, sink_caps
from actswap.onnx.algebra.scales import take_scales
from actswap.onnx.export import export_onnx
from actswap.onnx.functions import DOMAIN
from actswap.onnx.library import find_library
from actswap.onnx.machine import prepared_for


@pytest.mark.parametrize(("p1", "p2", "before"), [(1.0, 0.0, True), (0.8, 0.2, True), (1.0, -0.1, False)])
def test_a_cap_of_one_set_of_parameters_goes_before(p1: float, p2: float, before: bool, tmp_path: Path) -> None:
    """With a falling second line the cap is met on both sides, and stays behind."""
    first, last = convs()
    member = Bounded(acon(p1=p1, p2=p2, log_beta=1.0), 0.0, 0.3)
    report, error = both(Pair(first, member, nn.Sequential(nn.Tanh(), last)), 4 * X, tmp_path)
    assert error <= ROUNDING and report.operators["Clip"] == 1
    nodes = onnx.load(tmp_path / "simple.onnx").graph.node
    capped = next(node for node in nodes if node.domain == DOMAIN).input[0]
    assert (next(node for node in nodes if node.output[0] == capped).op_type == "Clip") == before


def test_caps_and_scales_pass_by_nodes_without_inputs() -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) {'
    model = onnx.parser.parse_model(f"{text} c = Constant <value_float = 2.0> ()\n y = Mul (x, c) }}")
    graph = ir.from_proto(model)
    assert lift_caps(graph) == () and sink_caps(graph) == 0 and take_scales(graph) == 0


@pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")
def test_a_fused_cap_has_the_same_bits(tmp_path: Path) -> None:
    before, after = convs()
    export_onnx(Pair(before, Bounded(acon(), 0.0, 0.3), after).eval(), X, tmp_path / "m.onnx", simplify=False)
    model = ir.load(tmp_path / "m.onnx")
    assert fuse_caps(model) == 1 and not [node for node in model.graph if node.op_type == "Clip"]
    x = X.clone()
    x[0, 0, 0, 0] = float("nan")
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(find_library()))
    results = []
    fused = ir.to_proto(model)
    for node in fused.graph.node:
        if node.domain == DOMAIN:  # the kernels take a cap from prepared files only
            node.attribute.append(onnx.helper.make_attribute("prepared_for", prepared_for()))
    for proto in (fused, onnx.load(tmp_path / "m.onnx")):
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    assert np.isnan(results[0]).any()
    np.testing.assert_array_equal(*results)


def test_a_cap_that_others_see_stays(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.activation = convs()[0], acon()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.activation(self.conv(x))
            return torch.clamp(y, max=0.3), y

    export_onnx(Two().eval(), X, tmp_path / "m.onnx", simplify=False)
    assert fuse_caps(ir.load(tmp_path / "m.onnx")) == 0
