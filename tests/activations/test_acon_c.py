"""ACON-C: symmetry, derivatives by hand and their bounds, values far out, and the authors' checkpoints."""

from __future__ import annotations

import pytest
import torch
from activation_cases import BY_NAME, LINE
from activation_modules import C, line, one, sample

from actswap import functional as AF
from actswap import nn as AN
from actswap.ops import backend


def test_acon_c_is_symmetric_in_its_lines_and_linear_at_beta_0() -> None:
    x = line()
    p, q, b = one(1.3), one(-0.4), one(2.0)
    torch.testing.assert_close(AF.acon_c(x, p, q, b, 1), AF.acon_c(x, q, p, b, 1))
    torch.testing.assert_close(AF.acon_c(x, p, q, one(0.0), 1), 0.45 * x)


@pytest.mark.parametrize(("p1", "p2", "beta"), [(1.0, 0.0, 1.0), (1.3, -0.5, 3.0), (0.4, 0.1, 0.7)])
def test_derivative_bounds(p1: float, p2: float, beta: float) -> None:
    """max f' = 1.0998393 p1 - 0.0998393 p2, min f' with them swapped, at beta (p1 - p2) |x| = 2.39936."""
    at = 2.3993572805154676 / (beta * (p1 - p2))
    x = torch.tensor([[[at, -at]]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(AF.acon_c(x, one(p1), one(p2), one(beta), 1).sum(), x)
    upper, lower = 1.0998393 * p1 - 0.0998393 * p2, 1.0998393 * p2 - 0.0998393 * p1
    assert slope.flatten().tolist() == pytest.approx([upper, lower], abs=1e-6)
    x = line(20001, 40 / (beta * (p1 - p2))).requires_grad_()
    (slope,) = torch.autograd.grad(AF.acon_c(x, one(p1), one(p2), one(beta), 1).sum(), x)
    assert slope.max() <= upper + 1e-6 and slope.min() >= lower - 1e-6
    assert slope.flatten()[0].item() == pytest.approx(p2, abs=1e-9)  # f' -> p2 on the left, p1 on the right
    assert slope.flatten()[-1].item() == pytest.approx(p1, abs=1e-9)


def test_acon_gradients_by_hand() -> None:
    """The derivatives of ACON-C written out."""
    x = line(101)
    p1, p2, b = (one(v).requires_grad_() for v in (1.2, -0.3, 2.5))
    x.requires_grad_()
    y = AF.acon_c(x, p1, p2, b, 1)
    found = torch.autograd.grad(y.sum(), [x, p1, p2, b])
    d, s = p1 - p2, torch.sigmoid(b * (p1 - p2) * x)
    z, slope = b * d * x, s * (1 - s)
    by_hand = [
        d * s + b * d**2 * x * slope + p2,
        (x * (s + z * slope)).sum().reshape(1),
        (x * (1 - s - z * slope)).sum().reshape(1),
        (d**2 * x**2 * slope).sum().reshape(1),
    ]
    for one_, other in zip(found, by_hand, strict=True):
        torch.testing.assert_close(one_, other)


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
    for found_one, other in zip(found, expected[1:], strict=True):
        # Sums of three terms of at most 10, in float32.
        torch.testing.assert_close(found_one.double(), other, rtol=1e-5, atol=1e-5)


def test_original_acon_c_checkpoint() -> None:
    g = torch.Generator().manual_seed(0)
    saved = {key: torch.randn(1, C, 1, 1, generator=g) for key in ("p1", "p2", "beta")}
    module = AN.AconC(C)
    module.load_state_dict(saved)
    x = sample()
    d = saved["p1"] - saved["p2"]
    torch.testing.assert_close(module(x), d * x * torch.sigmoid(saved["beta"] * d * x) + saved["p2"] * x)
    assert (saved["beta"] < 0).any()  # the sign is kept


def test_per_channel_shapes_load_from_any_layout() -> None:
    for shape in ((C,), (1, C, 1), (1, 1, C), (1, C, 1, 1)):
        module = AN.AconC(C)
        saved = {"p1": sample(*shape), "p2": sample(*shape), "beta": sample(*shape).abs()}
        module.load_state_dict(saved)
        assert torch.equal(module.p1, saved["p1"].flatten())
        torch.testing.assert_close(module.beta, saved["beta"].flatten())
