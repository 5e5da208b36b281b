"""Formulas whose plain spelling overflows or loses its gradient: written so that they hold for every finite float."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from actswap.activations.base import widened

_SATURATED = 5.0  # tanh(e^5) is 1 to the last bit of float64, and has no slope left
_SMALL = -15.0  # below it log(softplus(x)) is x - e^x / 2 to float64's rounding


def tanh_exp(x: Tensor, beta: Tensor | float = 1.0, gamma: Tensor | float = 1.0) -> Tensor:
    """X tanh(beta e^(gamma x)): TanhSoft-2 (Biswas et al. 2020), and TanhExp with both constants 1.

    The exponent stops where tanh has reached 1: e^x alone overflows from 89 on (12 in half precision), and its product
    with the slope of tanh, 0, is NaN.

    >>> tanh_exp(torch.tensor([-1.0, 0.0, 200.0]))
    tensor([ -0.3521,   0.0000, 200.0000])
    """
    t = widened(x)
    size, sign = _log_and_sign(beta)
    exponent = torch.clamp(gamma * t + size, max=_SATURATED)
    return (t * torch.tanh(sign * torch.exp(exponent))).to(x.dtype)


def eis(x: Tensor, alpha: float, beta: float, gamma: float, delta: float, theta: float) -> Tensor:
    """X softplus(x)^alpha / (sqrt(beta + gamma x^2) + delta e^(-theta x)) (Biswas et al. 2020, EIS).

    With beta = 0 the root is sqrt(gamma) x, with the sign of x, as the paper writes its first member,
    x ln(1 + e^x) / (x + 1.16 e^-x); beta = gamma = 1, delta = 0 is its second, x ln(1 + e^x) / sqrt(1 + x^2).

    Args:
        x: the input.
        alpha: power of the softplus.
        beta: constant under the root, not negative.
        gamma: factor of x^2 under the root, not negative.
        delta: factor of the exponential.
        theta: rate of the exponential.

    >>> eis(torch.tensor([-200.0, 0.0, 200.0]), 1.0, 0.0, 1.0, 1.16, 1.0)
    tensor([ -0.,   0., 200.])
    """
    t = widened(x)
    root = _root(t, beta, gamma)
    if delta == 0:
        ratio = t / root
    else:
        # Both parts of the fraction times e^m, m = min(theta x, 0): no exponent is positive.
        small = torch.exp(torch.clamp(theta * t, max=0.0))
        ratio = t * small / (root * small + delta * torch.exp(-torch.clamp(theta * t, min=0.0)))
    return (ratio * _softplus_power(t, alpha)).to(x.dtype)


def _root(t: Tensor, beta: float, gamma: float) -> Tensor:
    """sqrt(beta + gamma t^2) without squaring large t; with its sign if beta is 0."""
    if beta == 0:
        return math.sqrt(gamma) * t
    first, second = torch.full_like(t, math.sqrt(beta)), math.sqrt(gamma) * t.abs()
    larger, smaller = torch.maximum(first, second), torch.minimum(first, second)
    return larger * torch.sqrt(1 + (smaller / larger).square())


def _softplus_power(t: Tensor, alpha: float) -> Tensor:
    """softplus(t)^alpha; by its logarithm unless alpha is 1, so that its slope stays finite where it underflows."""
    if alpha == 1:
        return F.softplus(t)
    moderate = torch.log(F.softplus(t.clamp(min=_SMALL)))
    return torch.exp(alpha * torch.where(t < _SMALL, t - torch.exp(t.clamp(max=0.0)) / 2, moderate))


def _log_and_sign(value: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
    """Log |value| and the sign of value."""
    if isinstance(value, Tensor):
        return value.abs().log(), value.sign()
    return math.log(abs(value)) if value else -math.inf, math.copysign(1.0, value)
