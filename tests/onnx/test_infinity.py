"""Infinite and NaN inputs on the ways with kernels: what PyTorch gives, in plain and in blocked layout.

The bodies give NaN where a slope of 0 meets an infinite x (test_functions.py holds them to that): a Clip before the
product would cost a seventh of ResNet-50 and a fifth of MobileNetV2. Where a cap is written before the activation its
Clip is there anyway, and the limit comes out.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_cases import C, Case, cases
from torch import nn

from actswap.activations import get
from actswap.activations.bounded import Bounded
from actswap.onnx.export import export_onnx
from actswap.onnx.library import find_library
from actswap.onnx.prepare import open_prepared, prepare

ALL = [
    pytest.param(case, id=f"{case.label}-{'layer' if shared else 'channel'}")
    for shared in (False, True)
    for case in cases(shared)
]
SPECIAL = (float("nan"), float("inf"), float("-inf"))
needs_library = pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    scale = np.abs(want[np.isfinite(want)]).max(initial=1e-6)
    # float32 rationals with random coefficients, in another order of operations
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * scale)


def picture() -> torch.Tensor:
    """Two samples; in the first, special values at one place each."""
    x = torch.randn(2, 1, 5, 7, generator=torch.Generator().manual_seed(5))
    x[0, 0, 0, :3] = torch.tensor(SPECIAL)
    return x


def after_convolution(case: Case) -> tuple[onnx.ModelProto, torch.Tensor]:
    """The activation behind a convolution of one channel to C, half of them negative, so that every channel meets both
    infinities and no sum mixes them.
    """
    weight = torch.linspace(-2, 2, C).reshape(C, 1, 1, 1)
    model = case.model(4, 1)
    node = model.graph.node[0]
    node.input[0] = "inner"
    model.graph.node.insert(0, helper.make_node("Conv", ["x", "weight"], ["inner"]))
    model.graph.initializer.append(numpy_helper.from_array(weight.numpy(), "weight"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model, weight


@needs_library
@pytest.mark.parametrize("case", ALL)
def test_kernels_give_the_limit(case: Case) -> None:
    x = picture().expand(2, C, 5, 7).contiguous()
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(find_library()))
    session = ort.InferenceSession(case.model(4, 1).SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert_same(session.run(None, {"x": x.numpy()})[0], case.formula(x, 1).numpy())


@needs_library
@pytest.mark.parametrize("case", ALL)
def test_blocks_give_the_limit(case: Case) -> None:
    model, weight = after_convolution(case)
    found = prepare(model)
    assert found.blocked == 1
    x = picture()
    want = case.formula(torch.nn.functional.conv2d(x, weight), 1).numpy()
    session = open_prepared(found.model.SerializeToString(), None)
    assert_same(session.run(None, {"x": x.numpy()})[0], want)


def test_the_body_of_a_capped_activation_gives_the_limit(tmp_path: Path) -> None:
    """The cap is a Clip before the activation, with a floor of which the activation is 0."""
    before = nn.Conv2d(1, C, 1, bias=False)
    with torch.no_grad():
        before.weight.copy_(torch.linspace(-2, 2, C).reshape(C, 1, 1, 1))
    inner = get("acon_c").build(C, 1)
    with torch.no_grad():
        inner.log_beta.fill_(1.0)
    model = nn.Sequential(before, Bounded(inner, 0.0, 6.0), nn.Tanh()).eval()
    x = picture()
    report = export_onnx(model, x[1:], tmp_path / "m.onnx", dynamic_size=False, check=True)
    assert report.operators["Clip"] == 1
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        assert_same(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], model(x).numpy())
