"""Every operator against an oracle in float64, in every layout and type, and its gradients."""

from __future__ import annotations

import pytest
import torch
from activation_cases import BY_NAME, CASES, SHAPES, Case

from actswap.ops import backend

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
LAYOUTS = pytest.mark.parametrize("layout", SHAPES)


def inputs(shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


LINE = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 1e38, -1e38, torch.inf, -torch.inf, torch.nan])


def limits(name: str, *tensors: float) -> torch.Tensor:
    return BY_NAME[name].op(LINE.reshape(1, 1, -1), *(torch.tensor([t]) for t in tensors), 1).flatten()


@pytest.mark.parametrize(
    ("p1", "p2", "beta", "above", "below"),
    [
        (1.0, 0.0, 1.0, 1.0, 0.0),
        (1.0, 0.0, 1e3, 1.0, 0.0),
        (1.0, 0.25, 1.0, 1.0, 0.25),
        (1.0, -0.5, 1.0, 1.0, -0.5),
        (0.5, 1.5, 1.0, 1.5, 0.5),  # the lines swap when p1 < p2
        (1.0, 0.25, -1.0, 0.25, 1.0),  # beta < 0: the minimum
        (1.0, 0.0, 0.0, 0.5, 0.5),  # beta = 0: the mean
        (1.0, -1.0, 0.0, 0.0, 0.0),  # a mean of slope 0
        (0.7, 0.7, 1.0, 0.7, 0.7),  # equal lines
        (2.0, -2.0, 1.0, 2.0, -2.0),  # p1 x - p2 x overflows where p1 x does not
    ],
)
@pytest.mark.parametrize("who", ["auto", "reference"])
def test_acon_c_far_out(p1: float, p2: float, beta: float, above: float, below: float, who: str) -> None:
    with backend(who):
        y = limits("acon_c", p1, p2, beta)
    assert y[0] == 0 and y[1] == 0
    assert y[2].item() == pytest.approx((p1 + p2) / 2 * 1e-40, abs=1e-44)  # a few subnormal steps
    assert y[3].item() == pytest.approx(-(p1 + p2) / 2 * 1e-40, abs=1e-44)
    assert y[4].item() == pytest.approx(above * 1e38, rel=1e-6) and y[5].item() == pytest.approx(
        -below * 1e38, rel=1e-6
    )
    assert y[6].item() == (above * torch.inf if above else 0.0)
    assert y[7].item() == (-below * torch.inf if below else 0.0)
    assert y[8].isnan()


def test_swish_and_acon_b_far_out() -> None:
    for beta, above, below in ((1.0, 1.0, 0.0), (-1.0, 0.0, 1.0), (0.0, 0.5, 0.5)):
        y = limits("swish", beta)
        assert [v.item() for v in y[6:8]] == [
            above * torch.inf if above else 0,
            -below * torch.inf if below else 0,
        ]
        assert y[8].isnan() and y[4].item() == pytest.approx(above * 1e38, rel=1e-6)
    y = limits("acon_b", 0.25, 3.0)
    assert y[6] == torch.inf and y[7] == -torch.inf and y[5].item() == pytest.approx(-0.25e38, rel=1e-6)


@pytest.mark.parametrize(
    ("p1", "p2", "beta", "above", "below"),
    [(1.0, 0.0, 1.0, 1.0, 0.0), (0.5, 0.5, 1.0, 0.5, 0.5), (1.0, 0.25, 0.0, 0.625, 0.625), (1.0, 0.0, -2.0, 0.0, 1.0)],
)
@pytest.mark.parametrize("who", ["auto", "reference"])
def test_acon_gradients_stay_finite_beside_infinite_inputs(
    p1: float, p2: float, beta: float, above: float, below: float, who: str
) -> None:
    """An infinite element has the limit's slope, and does not spoil the parameters' gradients of the others."""
    x = torch.tensor([[[1.0, torch.inf, -torch.inf, 1e38, -2.0, 0.5]]], requires_grad=True)
    tensors = [torch.tensor([v], requires_grad=True) for v in (p1, p2, beta)]
    finite = [t.detach().double().requires_grad_() for t in (x[..., [0, 4, 5]], *tensors)]
    keep = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    with backend(who):
        y = BY_NAME["acon_c"].op(x, *tensors, 1)
        (slopes,) = torch.autograd.grad(y, x, torch.ones_like(x), retain_graph=True)
        found = torch.autograd.grad(y, tensors, keep.expand_as(x))
    expected = torch.autograd.grad(BY_NAME["acon_c"].op(*finite, 1).sum(), finite)
    assert slopes.isfinite().all()
    assert slopes.flatten()[1:4].tolist() == [above, below, above]
    for one, other in zip(found, expected[1:], strict=True):
        # Sums of three terms of at most 10, in float32.
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["pau_A", "pau_B", "pau_C", "pau_D", "pau_unsafe", "opau_legendre_safe"])
@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.0, 0.0), (0.1, -0.5)])
def test_rationals_far_out(name: str, slopes: tuple[float, float]) -> None:
    case = BY_NAME[name]
    *coefficients, _ = (t.float() for t in case.parameters())
    tails = torch.tensor([1.0, -3.0, 2.0, *slopes])
    y = case.call(LINE.reshape(1, 1, -1), [*coefficients, tails], 1).flatten()
    ends = case.call(torch.tensor([[[-3.0, 2.0, 0.0]]]), [*coefficients, tails], 1).flatten()
    assert y[:4].tolist() == pytest.approx([ends[2].item()] * 4)
    below, above = slopes
    assert y[4].item() == pytest.approx(above * 1e38 if above else ends[1].item(), rel=1e-5)
    assert y[5].item() == pytest.approx(-below * 1e38 if below else ends[0].item(), rel=1e-5)
    assert y[6].item() == (above * torch.inf if above else pytest.approx(ends[1].item()))
    assert y[7].item() == (-below * torch.inf if below else pytest.approx(ends[0].item()))
    assert y[8].isnan()


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
