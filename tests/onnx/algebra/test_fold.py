"""Scales go into the layers around an activation; nothing changes if the pattern does not hold."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from algebra_nets import ROUNDING, C, Pair, V, X, acon, both, convs
from torch import nn

from actswap.activations.bounded import Bounded
from actswap.onnx.finalize import attach
from actswap.onnx.functions import DOMAIN, SWISH_SKIP
from actswap.onnx.library import find_library


@pytest.mark.parametrize("name", ["acon_c", "acon_b", "swish"])
@pytest.mark.parametrize("groups", [1, C])
def test_scales_go_into_the_convolutions(name: str, groups: int, tmp_path: Path) -> None:
    before, after = convs(groups=groups)
    report, error = both(Pair(before, acon(name), after), X, tmp_path)
    assert list(report.simplified) == ["activation"] and error <= ROUNDING
    assert f"actswap.{'Swish' if name == 'swish' else 'SwishSkip'}" in report.operators
    assert report.operators["Conv"] == 2


def test_scales_go_into_linear_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pair(nn.Linear(3, C), acon(), nn.Linear(C, 4))
    report, error = both(model, V, tmp_path)
    assert list(report.simplified) == ["activation"] and error <= ROUNDING


@pytest.mark.parametrize("sharpness", [{"log_beta": 1.0}, {}])
def test_a_cap_stays_behind_a_convolution_that_scales_back(sharpness: dict[str, float], tmp_path: Path) -> None:
    before, after = convs()
    report, error = both(Pair(before, Bounded(acon(**sharpness), 0.0, 0.3), after), X, tmp_path)
    assert len(report.simplified) == 1 and report.operators["Conv"] == 3 and error <= ROUNDING


@pytest.mark.parametrize("sharpness", [{"log_beta": 1.0}, {}])
def test_a_cap_of_a_linear_layer_needs_one_sharpness(sharpness: dict[str, float], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pair(nn.Linear(3, C), Bounded(acon(**sharpness), 0.0, 0.3), nn.Linear(C, 4))
    report, error = both(model, V, tmp_path)
    assert len(report.simplified) == len(sharpness) and error <= ROUNDING


@pytest.mark.parametrize("why", ["another reader", "no layer before", "no layer after", "slopes alike"])
def test_nothing_is_folded_where_the_pattern_does_not_hold(why: str, tmp_path: Path) -> None:
    before, after = convs()
    activation = acon(p1=0.5, p2=0.5) if why == "slopes alike" else acon()
    if why == "no layer before":
        before = nn.Sequential(before, nn.MaxPool2d(2))
    if why == "no layer after":
        after = nn.Sequential(nn.Tanh(), after)
    report, error = both(Pair(before, activation, after, also=why == "another reader"), X, tmp_path)
    assert "actswap.SwishSkip" not in report.operators and error <= 5e-5


@pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")
@pytest.mark.parametrize("shape", [(), (C, 1, 1)])
def test_the_kernel_of_the_folded_operator_is_its_body(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    arrays = {"beta": np.float32(1.5).reshape(()), "skip": random.standard_normal(shape).astype(np.float32)}
    names = list(SWISH_SKIP.inputs)
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, C, None, None]) for n in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(SWISH_SKIP.op, names, ["y"], domain=DOMAIN)],
        "one",
        ends[:1],
        ends[1:],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    attach(model, [SWISH_SKIP], 18)
    x = random.standard_normal((2, C, 5, 7)).astype(np.float32) * 4
    want = x / (1 + np.exp(-1.5 * x.astype(np.float64))) + arrays["skip"] * x
    for native in (False, True):
        options = ort.SessionOptions()
        if native:
            options.register_custom_ops_library(str(find_library()))
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": x})[0], want, rtol=0, atol=1e-6 * np.abs(want).max())
