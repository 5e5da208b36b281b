"""Function bodies against the formulas in PyTorch, in a plain ONNX Runtime and in the reference evaluator."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx_cases import LAYOUTS, Case, cases

from actswap.onnx.functions import has_kernel

ALL = [
    pytest.param(case, id=f"{case.label}-{'layer' if shared else 'channel'}")
    for shared in (0, 1)
    for case in cases(bool(shared))
]
# A rational of degree 5 on |t| < 2 with random coefficients: its condition number times float32's rounding.
TOLERANCE = 2e-6


def run(model: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy()})[0]


def inputs(shape: tuple[int, ...], half: bool = False) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * 3
    return x.half() if half else x


def assert_close(got: np.ndarray, want: torch.Tensor, tolerance: float) -> None:
    expected = want.numpy().astype(np.float64)
    assert got.shape == expected.shape
    scale = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=0, atol=tolerance * max(scale, 1e-6))


@pytest.mark.parametrize("case", ALL)
def test_body_is_the_formula_in_every_layout(case: Case) -> None:
    for shape, dim in LAYOUTS:
        x = inputs(shape)
        assert_close(run(case.model(x.dim(), dim), x), case.formula(x, dim), TOLERANCE)


@pytest.mark.parametrize("case", ALL)
def test_half_precision_is_rounded_once(case: Case) -> None:
    x = inputs((2, 8, 5, 7), half=True)
    assert_close(run(case.model(4, 1, half=True), x), case.formula(x, 1), 2.0**-10)


@pytest.mark.parametrize("case", ALL)
def test_body_passes_the_checker_and_the_reference_evaluator(case: Case) -> None:
    x = inputs((2, 8, 3, 3))
    for opset in (18, onnx.defs.onnx_opset_version()):
        onnx.checker.check_model(case.model(4, 1, opset=opset), full_check=True)
    got = ReferenceEvaluator(case.model(4, 1)).run(None, {"x": x.numpy()})[0]
    assert_close(got, case.formula(x, 1), TOLERANCE)


@pytest.mark.parametrize("case", ALL)
def test_nan_stays_and_infinity_is_never_a_wrong_number(case: Case) -> None:
    x = inputs((1, 8, 2, 2))
    x[0, 0, 0, 0], x[0, 1, 0, 0], x[0, 2, 0, 0] = float("nan"), float("inf"), float("-inf")
    got, want = run(case.model(4, 1), x), case.formula(x, 1).numpy()
    assert np.isnan(got[0, 0, 0, 0])
    differs = ~np.isclose(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert np.isnan(got[differs]).all()  # 0 * infinity, where PyTorch gives the limit


def test_a_name_that_is_no_text_has_no_kernel() -> None:
    """Protobuf gives bytes for an operator whose name in a damaged file is not UTF-8."""
    node = onnx.NodeProto.FromString(onnx.NodeProto(op_type="AconC").SerializeToString().replace(b"AconC", b"Aco\xe8C"))
    assert isinstance(node.op_type, bytes)
    assert not has_kernel(node.op_type)
