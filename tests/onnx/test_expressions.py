"""Any expression in ONNX: the body written from the tree computes what PyTorch computes, guards and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import actswap
from actswap.activations.expression import FUNCTIONS
from actswap.activations.expression_unit import ExpressionUnit
from actswap.onnx.expressions import _STATEMENTS, expression_function
from actswap.onnx.runtime import cpu_session
from actswap.search.space import published

EXPRESSIONS = (
    *published(),
    "beta*x+(1-beta)*sin(beta2*x)",
    "exp(-beta*abs(x-beta2))*log(x)",
    "x/(sqrt(x)+cosh(x))-x/x",
    "min(x, 0)+softplus(-x)*erf(x)+sinh(x)*exp(-x**2)-x**3/1e3",
)
# Where the guards act: 0 and its neighbours, the clamp of exp at 20, far out.
X = np.concatenate([np.linspace(-7, 7, 57), [-30, -20.5, 20.5, 30, 1e-7, -1e-7, 0.0]]).astype(np.float32)


def test_every_function_has_its_statements() -> None:
    assert set(_STATEMENTS) == set(FUNCTIONS) and len(EXPRESSIONS) == 12


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_parity(text: str, tmp_path: Path) -> None:
    """Both compute in float32; a handful of functions round 2^-24 each, and cancelling takes part of the scale."""
    unit = ExpressionUnit(4, expression=text)
    with torch.no_grad():
        for k, parameter in enumerate(unit.parameters()):
            parameter.copy_(torch.tensor([0.5, 1.0, 1.7, -0.3]) + 0.1 * k)
    x = torch.from_numpy(np.stack([np.roll(X, k) for k in range(4)])).reshape(1, 4, 8, 8)
    actswap.export_onnx(unit.eval(), x, tmp_path / "unit.onnx")
    proto = onnx.load(tmp_path / "unit.onnx")
    assert [n.op_type for n in proto.graph.node] == [expression_function(unit.name).op], "one node"
    (y,) = cpu_session(str(tmp_path / "unit.onnx")).run(None, {proto.graph.input[0].name: x.numpy()})
    expected = unit.double()(x.double()).detach().numpy()
    inside = [np.abs(v).max() for v in (x.numpy(), expected)]
    allowed = 2e-6 * (1 + np.abs(expected)) + 64 * 2.0**-24 * (np.abs(expected) + min(inside))
    assert (np.abs(y - expected) <= allowed).all()


def test_a_network_runs_with_and_without_the_kernels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU()).eval()
    x = torch.randn(2, 3, 9, 9)
    model = actswap.convert(net, {"1": "x*sigmoid(beta*x)", "3": "acon_c"}, x).model
    actswap.export_onnx(model, x, tmp_path / "m.onnx", dynamic_batch=True)
    expected = model(x).detach().numpy()
    for session in (
        cpu_session(str(tmp_path / "m.onnx")),
        actswap.onnx.session(tmp_path / "m.onnx", cache_folder=tmp_path),
    ):
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("text", ["x*sigmoid(beta*x)", "beta"])
def test_a_last_axis_and_one_number_per_layer(text: str, tmp_path: Path) -> None:
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    for unit in (ExpressionUnit(3, -1, text, 0.5), ExpressionUnit(None, 1, text, 0.5)):
        actswap.export_onnx(unit.eval(), x, tmp_path / "u.onnx", dynamic_batch=True, overwrite=True)
        session = cpu_session(str(tmp_path / "u.onnx"))
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(y, unit(x).detach().numpy(), rtol=1e-6, atol=1e-6)


def test_half_precision(tmp_path: Path) -> None:
    unit = ExpressionUnit(3, expression="x*sigmoid(beta*x)").half().eval()
    x = torch.linspace(-8, 8, 48).half().reshape(1, 3, 16)
    actswap.export_onnx(unit, x, tmp_path / "u.onnx")
    session = cpu_session(str(tmp_path / "u.onnx"))
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    # Both round a float32 result once; the two may fall on either side: one step of float16, 2^-10.
    np.testing.assert_allclose(y, unit(x).detach().numpy(), rtol=2.0**-10, atol=1e-7)


def test_names_differ_and_are_stable() -> None:
    names = {expression_function(text).op for text in EXPRESSIONS}
    assert len(names) == 12 and expression_function("x").op == expression_function("x").op
