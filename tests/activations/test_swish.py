"""Swish: its derivatives, and beta as a constant or trained."""

from __future__ import annotations

import torch
from activation_modules import C, line, one, sample

from actswap import functional as AF
from actswap import nn as AN


def test_swish_derivatives() -> None:
    """f' = beta f + sigmoid(beta x) (1 - beta f), df/dbeta = x^2 s (1 - s); beta 0 is x / 2."""
    x, beta = line(301).requires_grad_(), one(1.7).requires_grad_()
    y = AF.swish(x, beta, 1)
    dx, dbeta = torch.autograd.grad(y.sum(), [x, beta])
    s = torch.sigmoid(beta * x)
    torch.testing.assert_close(dx, beta * y + s * (1 - beta * y))
    torch.testing.assert_close(dbeta, (x**2 * s * (1 - s)).sum().reshape(1))
    assert torch.equal(AF.swish(x, one(0.0), 1), x / 2)


def test_swish_constant_or_trained() -> None:
    constant, shared, own = AN.Swish(beta=1.702, trainable=False), AN.Swish(), AN.Swish(C)
    assert not list(constant.parameters()) and "log_beta" in constant.state_dict()
    assert [p.numel() for p in shared.parameters()] == [1] and [p.numel() for p in own.parameters()] == [C]
    x = sample()
    torch.testing.assert_close(constant(x), x * torch.sigmoid(1.702 * x))
