"""Every plain function over the whole range of floats: values, growth, gradients, half types."""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
import torch

from actswap.activations.plain import PLAIN, evaluate
from actswap.activations.stable import eis, tanh_exp
from actswap.sites import Source


def exp(x: mp.mpf) -> mp.mpf:
    """e^x; beyond +-20000, where no float can tell, that of the nearer end."""
    return mp.exp(min(max(x, mp.mpf(-20000)), mp.mpf(20000)))


def softplus(x: mp.mpf) -> mp.mpf:
    return x if x > 10000 else mp.log1p(exp(x))


def tanh(x: mp.mpf) -> mp.mpf:
    return mp.sign(x) if abs(x) > 1000 else mp.tanh(x)


# The formulas of the papers, in arithmetic that neither rounds nor overflows.
EXACT: dict[str, Callable[[mp.mpf], mp.mpf]] = {
    "eis": lambda x: x * softplus(x) / (x + mp.mpf(1.16) * exp(-x)),
    "tanhsoft1": lambda x: tanh(mp.mpf(0.87) * x) * softplus(x),
    "tanhsoft2": lambda x: x * tanh(mp.mpf(0.6) * exp(x)),
    "tanhexp": lambda x: x * tanh(exp(x)),
    "lisht": lambda x: x * tanh(x),
    "phish": lambda x: x * tanh(x * mp.ncdf(x)),
    "swish": lambda x: x / (1 + exp(-x)),
    "quick_gelu": lambda x: x / (1 + exp(mp.mpf(-1.702) * x)),
    "mish": lambda x: x * tanh(softplus(x)),
    "softplus": softplus,
    "logsigmoid": lambda x: -softplus(-x),
    "max_sigmoid": lambda x: max(x, 1 / (1 + exp(-x))),
    "max_tanh": lambda x: max(x, tanh(x)),
    "atan2_minus": lambda x: mp.atan(x) ** 2 - x,
    "x_asinh2": lambda x: x * mp.asinh(x) ** 2,
    "softsign": lambda x: x / (1 + abs(x)),
}
POINTS = (0.0, 1e-30, 1e-3, 0.3, 1.0, 3.0, 11.0, 12.0, 20.0, 88.0, 95.0, 104.0, 800.0, 1e4, 1e18, 1e30)
GRID = [sign * p for p in POINTS for sign in (1.0, -1.0)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", EXACT)
def test_values_and_slopes_hold_for_every_finite_float(name: str, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    x = torch.tensor([v for v in GRID if abs(v) < limits.max ** (0.5 if name == "x_asinh2" else 1.0)], dtype=dtype)
    x.requires_grad_()
    y = evaluate(Source(name), x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    with mp.workdps(60):
        exact = [EXACT[name](mp.mpf(v)) for v in x.detach().double().tolist()]
        expected = np.array([float(v) for v in exact])
        steps = [max(abs(v), 1e-25) * 1e-12 for v in x.detach().double().tolist()]
        slopes = np.array(
            [float((EXACT[name](mp.mpf(v) + h) - EXACT[name](mp.mpf(v) - h)) / (2 * h))
             for v, h in zip(x.detach().double().tolist(), map(mp.mpf, steps), strict=True)]
        )  # fmt: skip
    assert y.dtype == dtype and bool(torch.isfinite(y).all()) and bool(torch.isfinite(slope).all())
    # A few roundings of the type, relative to the value (the steps of torch's own formulas are up to 2e-9 in float64:
    # softplus is x from 20 on); absolutely, what torch's gelu loses in 1 + erf, times |x| = 12.
    rtol, atol = max(16 * limits.eps, 4e-9), max(16 * limits.eps, 4e-9)
    np.testing.assert_allclose(y.detach().double().numpy(), expected, rtol=rtol, atol=atol)
    corner = (x.detach() == 0).numpy() & (name in ("max_tanh",))
    np.testing.assert_allclose(
        slope.double().numpy()[~corner], slopes[~corner], rtol=64 * limits.eps + 1e-8, atol=64 * limits.eps + 1e-8
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", PLAIN)
def test_gradients_are_finite_for_every_input_of_ordinary_size(name: str, dtype: torch.dtype) -> None:
    """Up to 200, whose square every half type holds."""
    x = torch.cat([torch.linspace(-200, 200, 1601), torch.linspace(-2, 2, 401)]).to(dtype).requires_grad_()
    y = evaluate(Source(name), x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == dtype and bool(torch.isfinite(y).all()) and bool(torch.isfinite(slope).all())


def test_eis_has_the_published_members() -> None:
    x = torch.linspace(-8, 8, 161, dtype=torch.float64)
    sp = torch.log1p(torch.exp(x))
    first, second = evaluate(Source("eis"), x), eis(x, 1.0, 1.0, 1.0, 0.0, 0.0)
    torch.testing.assert_close(first, x * sp / (x + 1.16 * torch.exp(-x)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second, x * sp / torch.sqrt(1 + x * x), rtol=1e-12, atol=1e-12)
    half = eis(x, 0.5, 1.0, 0.3, 0.2, -0.7)
    torch.testing.assert_close(half, x * sp**0.5 / (torch.sqrt(1 + 0.3 * x * x) + 0.2 * torch.exp(0.7 * x)))
    # Linear growth, not x^2.
    assert float(evaluate(Source("eis"), torch.tensor(1e30))) == pytest.approx(1e30, rel=1e-6)


def test_tanh_exp_takes_constants_of_either_sign_and_by_channel() -> None:
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)[:, None]
    beta, gamma = torch.tensor([0.6, -2.0, 0.0]).double(), torch.tensor([1.0, -0.5, 2.0]).double()
    torch.testing.assert_close(tanh_exp(x, beta, gamma), x * torch.tanh(beta * torch.exp(gamma * x)))
    torch.testing.assert_close(tanh_exp(x, -2.0, -0.5), x * torch.tanh(-2 * torch.exp(-0.5 * x)))
