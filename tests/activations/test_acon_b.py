"""ACON-B: the lines x and p x, what it tends to, and its derivatives by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from activation_modules import line, one

from actswap import functional as AF
from actswap import nn as AN
from actswap.activations.sharpness import GAP


def test_acon_b_is_acon_c_with_a_first_slope_of_1() -> None:
    x, p, beta = line(), one(0.3), one(2.0)
    assert torch.equal(AF.acon_b(x, p, beta, 1), AF.acon_c(x, one(1.0), p, beta, 1))


def test_acon_b_tends_to_prelu_and_to_the_mean_of_its_lines() -> None:
    """It differs from the maximum of its lines by at most GAP / beta; beta 0 is the mean (1 + p) x / 2."""
    x, p = line(), 0.3
    prelu = F.prelu(x, one(p))
    for beta in (1.0, 50.0, 1e4):
        off = (AF.acon_b(x, one(p), one(beta), 1) - prelu).abs().max()
        assert off <= GAP / beta * (1 + 1e-12)
    torch.testing.assert_close(AF.acon_b(x, one(p), one(0.0), 1), (1 + p) / 2 * x, rtol=1e-15, atol=0)


def test_acon_b_gradients_by_hand() -> None:
    """With d = 1 - p, s = sigmoid(beta d x): df/dp = x (1 - s - z s'), df/dbeta = (d x)^2 s', z = beta d x."""
    x = line(101)
    p, beta = (one(v).requires_grad_() for v in (0.3, 2.5))
    found = torch.autograd.grad(AF.acon_b(x, p, beta, 1).sum(), [p, beta])
    d = 1 - p
    s = torch.sigmoid(beta * d * x)
    bend, z = s * (1 - s), beta * d * x
    torch.testing.assert_close(found[0], (x * (1 - s - z * bend)).sum().reshape(1))
    torch.testing.assert_close(found[1], (d**2 * x**2 * bend).sum().reshape(1))


def test_the_state_of_a_unit_is_its_slope_and_its_sharpness() -> None:
    assert set(AN.AconB(4).state_dict()) == {"p", "log_beta", "beta_sign"}
    assert set(AN.AconB(4, beta="raw").state_dict()) == {"p", "raw_beta"}
