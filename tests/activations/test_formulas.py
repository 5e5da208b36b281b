"""Every operator against an oracle in float64, in every layout and type, and its gradients."""

from __future__ import annotations

import pytest
import torch
from activation_cases import BY_NAME, CASES, SHAPES, Case, inputs

from actswap.ops import backend

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
LAYOUTS = pytest.mark.parametrize("layout", SHAPES)


@EVERY
@LAYOUTS
def test_double_agrees_with_oracle_in_every_layout(case: Case, layout: str) -> None:
    shape, dim = SHAPES[layout]
    x, tensors = inputs(shape), case.parameters()
    y, expected = case.call(x, tensors, dim), case.expected(x, tensors, dim)
    # Rounding of some tens of operations; rationals amplify it by at most the condition of P, about 1e3 here.
    assert y.shape == x.shape and y.dtype == x.dtype
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)


@EVERY
def test_negative_and_positive_axis_agree(case: Case) -> None:
    x, tensors = inputs((2, 3, 4, 5)), case.parameters()
    assert torch.equal(case.call(x, tensors, 1), case.call(x, tensors, -3))


@EVERY
def test_non_contiguous_input(case: Case) -> None:
    x, tensors = inputs((2, 3, 4, 6)), case.parameters()
    strided = x.to(memory_format=torch.channels_last)[..., ::2]
    torch.testing.assert_close(case.call(strided, tensors, 1), case.call(strided.contiguous(), tensors, 1))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("own", [True, False], ids=["own_parameters", "float32_parameters"])
def test_low_precision_is_float32_arithmetic(case: Case, dtype: torch.dtype, own: bool) -> None:
    """The result is the float64 value of the same rounded inputs, up to float32 rounding and one cast."""
    kept = dtype if own else torch.float32
    x, tensors = inputs((2, 3, 4, 5)).to(dtype), [t.to(kept) for t in case.parameters()]
    y, expected = case.call(x, tensors, 1), case.expected(x, tensors, 1)
    assert y.dtype == dtype
    # Float32: some tens of roundings of terms up to ~1e2 (polynomials at the ends of the range). The cast:
    # half a unit in the last place of the type.
    scale = expected.abs().max().item()
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=2e-5 * max(scale, 1.0))


@EVERY
def test_autocast_changes_nothing(case: Case) -> None:
    """Matrix products inside are not done in bfloat16: y under autocast is y without, to the bit."""
    x, tensors = inputs((2, 3, 4, 5)).float(), [t.float() for t in case.parameters()]
    plain = case.call(x, tensors, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(case.call(x, tensors, 1), plain)


@EVERY
@pytest.mark.parametrize("layout", ["NC", "NCHW", "NLC"])
def test_gradients(case: Case, layout: str) -> None:
    shape, dim = SHAPES[layout]
    small = tuple(min(n, 3) for n in shape)
    x = inputs(small, 3).requires_grad_()
    tensors = [t.requires_grad_() for t in case.parameters()]
    assert torch.autograd.gradcheck(lambda x, *t: case.call(x, list(t), dim), (x, *tensors))


@EVERY
def test_second_gradients(case: Case) -> None:
    x = inputs((2, 3, 2), 5).requires_grad_()
    tensors = [t.requires_grad_() for t in case.parameters()]
    assert torch.autograd.gradgradcheck(lambda x, *t: case.call(x, list(t), 1), (x, *tensors), fast_mode=True)


@EVERY
def test_operator_and_formula_agree(case: Case) -> None:
    """Whatever kernel computes the operator, its value and gradients are those of the formula."""
    x = inputs((2, 3, 4, 5)).float().requires_grad_()
    tensors = [t.float().requires_grad_() for t in case.parameters()]
    seed = inputs((2, 3, 4, 5), 7).float()
    found = []
    for name in ("auto", "reference"):
        with backend(name):
            y = case.call(x, tensors, 1)
            found.append((y, *torch.autograd.grad(y, [x, *tensors], seed)))
    for one, other in zip(*found, strict=True):
        # Sums over 40 elements in another order, on terms as large as the largest gradient.
        bound = 4e-6 * max(1.0, other.abs().max().item()) * 10
        torch.testing.assert_close(one, other, rtol=1e-5, atol=bound)


@pytest.mark.parametrize("name", ["meta_acon", "dy_relu_a", "dy_relu_b", "dy_relu_c"])
def test_pooling_keeps_samples_apart(name: str) -> None:
    """A sample with infinite or NaN values does not touch the others."""
    case = BY_NAME[name]
    x, tensors = inputs((3, 3, 4)).float(), [t.float() for t in case.parameters()]
    spoilt = x.clone()
    spoilt[1, 0, 0], spoilt[1, 1, 1] = torch.nan, torch.inf
    torch.testing.assert_close(case.call(spoilt, tensors, 1)[[0, 2]], case.call(x, tensors, 1)[[0, 2]])


@pytest.mark.parametrize("name", ["swish", "acon_c", "pau_A", "opau_legendre_safe", "dy_relu_b", "meta_acon"])
def test_large_half_values_do_not_overflow_inside(name: str) -> None:
    """x^5 and beta x overflow float16 from |x| = 10 on; the value here is representable, and is returned."""
    case = BY_NAME[name]
    x = torch.tensor([300.0, -300.0, 25.0]).reshape(1, 1, 3).expand(2, 3, 3).half()
    tensors = [t.half() for t in case.parameters()]
    assert case.call(x, tensors, 1).isfinite().all()
