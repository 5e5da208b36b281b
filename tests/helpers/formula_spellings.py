"""Spellings of formulas, by what they are, and a network with one of them between two layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actswap.capture.observe import observe
from actswap.recognize.matches import Match, find

Function = Callable[[Tensor], Tensor]


V = nn.Parameter(torch.tensor([0.5, 0.9, 1.3, 1.0, 0.7]))


ROOT = math.sqrt(2 / math.pi)


SPELLINGS: dict[str, list[Function]] = {
    "silu": [
        lambda x: x * torch.exp(F.logsigmoid(x)),
        lambda x: (x * x.sigmoid()) / 1,
        F.silu,
        lambda x: F.silu(x, inplace=False),
        lambda x: x * torch.sigmoid(x),
        lambda x: torch.sigmoid(x) * x,
        lambda x: x * x.sigmoid(),
        lambda x: x.sigmoid() * x,
        lambda x: x * F.sigmoid(x),
        lambda x: x * torch.special.expit(x),
        lambda x: x.mul(x.sigmoid()),
        lambda x: torch.mul(F.sigmoid(x), x),
        lambda x: torch.multiply(x, torch.sigmoid(x)),
        lambda x: x / (1 + torch.exp(-x)),
        lambda x: x / (torch.exp(-x) + 1),
        lambda x: x * (1 / (1 + torch.exp(-x))),
        lambda x: x * torch.reciprocal(1 + (-x).exp()),
        lambda x: x.div(1 + torch.exp(torch.neg(x))),
        lambda x: x.clone().mul_(x.sigmoid()),
        lambda x: x * torch.sigmoid(1.0 * x),
        lambda x: x * 0.5 * (1 + torch.tanh(x / 2)),
    ],
    "swish": [
        lambda x: x * torch.sigmoid(1.5 * x),
        lambda x: (x * 1.5).sigmoid() * x,
        lambda x: x * torch.sigmoid(x / 0.5),
        lambda x: x / (1 + torch.exp(-1.5 * x)),
        lambda x: x * torch.sigmoid(V * x),
        lambda x: torch.sigmoid(x * V).mul(x),
    ],
    "quick_gelu": [
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: torch.sigmoid(x * 1.702) * x,
        lambda x: x.mul(torch.sigmoid(torch.mul(1.702, x))),
    ],
    "gelu": [
        lambda x: 0.5 * x * torch.special.erfc(-x * 0.70710678),
        F.gelu,
        lambda x: F.gelu(x, approximate="none"),
        lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
        lambda x: 0.5 * x * (1 + torch.erf(x * 0.7071)),
        lambda x: 0.5 * (x * (1 + torch.erf(x / 2**0.5))),
        lambda x: x * (0.5 + 0.5 * torch.erf(x * 2**-0.5)),
        lambda x: x * (torch.erf(x / math.sqrt(2.0)) + 1) * 0.5,
        lambda x: (1 + (x / 2**0.5).erf()) * x / 2,
        lambda x: torch.mul(x, 1 + torch.special.erf(x / math.sqrt(2))).div(2),
        lambda x: x * torch.special.ndtr(x),
        lambda x: 0.5 * x * torch.erfc(-x / math.sqrt(2)),
        lambda x: 0.5 * x * (1 - torch.erf(-x / math.sqrt(2))),
    ],
    "gelu_tanh": [
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3)))),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x * x * x))),
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
        lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
        lambda x: x * torch.sigmoid(2 * ROOT * (x + 0.044715 * x**3)),
        lambda x: (torch.tanh(ROOT * (0.044715 * x.pow(3) + x)) + 1).mul(x).mul(0.5),
    ],
    "mish": [
        F.mish,
        lambda x: x * torch.tanh(F.softplus(x)),
        lambda x: F.softplus(x).tanh() * x,
        lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
        lambda x: x * torch.log1p(x.exp()).tanh(),
        lambda x: x.mul(torch.tanh(F.softplus(x, beta=1, threshold=20))),
        lambda x: x * torch.tanh(-F.logsigmoid(-x)),
        lambda x: x * ((1 + torch.exp(x)) ** 2 - 1) / ((1 + torch.exp(x)) ** 2 + 1),
        lambda x: x * (x.exp() ** 2 + 2 * x.exp()) / (x.exp() ** 2 + 2 * x.exp() + 2),
    ],
    "hardswish": [
        F.hardswish,
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: F.relu6(x + 3) * x / 6,
        lambda x: x * (F.relu6(x + 3.0) / 6.0),
        lambda x: x / 6 * F.relu6(x + 3),
        lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
        lambda x: x * F.hardsigmoid(x),
        lambda x: F.hardsigmoid(x) * x,
        lambda x: x * (x + 3).clamp(0, 6).div(6),
        lambda x: F.relu6(3 + x).mul(1 / 6) * x,
        lambda x: x * F.hardtanh(x + 3, 0, 6) / 6,
        lambda x: x * F.relu6(x.clone().add_(3)).div_(6),
    ],
    "hardsigmoid": [
        lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
        F.hardsigmoid,
        lambda x: F.relu6(x + 3) / 6,
        lambda x: F.relu6(x + 3) * 0.16667,
        lambda x: (x / 6 + 0.5).clamp(0, 1),
        lambda x: (0.5 + x / 6).clamp(min=0, max=1),
        lambda x: (x + 3).clamp(0, 6) / 6,
    ],
    "leaky_relu": [
        lambda x: F.leaky_relu(x, 0.1),
        lambda x: torch.maximum(x, 0.1 * x),
        lambda x: torch.maximum(x * 0.1, x),
        lambda x: torch.max(0.1 * x, x),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: torch.where(x >= 0, x, x * 0.1),
        lambda x: torch.where(x < 0, 0.2 * x, x),
        lambda x: F.relu(x) - 0.1 * F.relu(-x),
    ],
    "relu2": [
        lambda x: F.relu(x) * x,
        lambda x: x * x.relu(),
        lambda x: F.relu(x) ** 2,
        lambda x: F.relu(x).square(),
        lambda x: F.relu(x) * F.relu(x),
        lambda x: torch.square(torch.relu(x)),
        lambda x: torch.pow(F.relu(x), 2),
        lambda x: x.clamp(min=0).pow(2),
    ],
    "star_relu": [
        lambda x: 0.8 * F.relu(x) ** 2 - 0.4,
        lambda x: -0.4 + F.relu(x).square() * 0.8,
        lambda x: torch.add(F.relu(x).pow(2).mul(0.8944), -0.4472),
    ],
    "relu": [
        lambda x: x * torch.heaviside(x, torch.tensor(0.0)),
        lambda x: x * torch.heaviside(x, torch.zeros_like(x)),
        lambda x: torch.fmax(x, torch.tensor(0.0)),
        lambda x: x.fmax(torch.zeros_like(x)),
        F.relu,
        torch.relu,
        lambda x: x.relu(),
        lambda x: x.clone().relu_(),
        lambda x: F.relu(x, inplace=False),
        lambda x: torch.maximum(x, torch.zeros(())),
        lambda x: torch.max(x, torch.tensor(0.0)),
        lambda x: torch.maximum(x, torch.zeros_like(x)),
        lambda x: torch.clamp(x, min=0),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp(0),
        lambda x: x.clone().clamp_(min=0),
        lambda x: torch.clamp_min(x, 0),
        lambda x: x.clip(0),
        lambda x: (x + x.abs()) / 2,
        lambda x: 0.5 * (torch.abs(x) + x),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        lambda x: F.threshold(x, 0, 0),
        lambda x: x * (x > 0),
        lambda x: x.masked_fill(x < 0, 0),
        lambda x: x.clone().masked_fill_(x <= 0, 0.0),
        lambda x: torch.clamp(x, min=torch.tensor(0.0)),
        lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    ],
    "relu6": [
        lambda x: torch.clamp(F.relu(x), max=6),
        lambda x: F.relu(x).clamp(max=6),
        F.relu6,
        lambda x: F.hardtanh(x, 0, 6),
        lambda x: x.clamp(0, 6),
        lambda x: torch.clamp(x, min=0, max=6),
        lambda x: torch.minimum(F.relu(x), torch.tensor(6.0)),
        lambda x: torch.minimum(torch.maximum(x, torch.zeros(())), torch.tensor(6.0)),
        lambda x: x.clamp(min=0).clamp(max=6),
    ],
    "softplus": [
        F.softplus,
        lambda x: torch.log(1 + torch.exp(x)),
        lambda x: torch.log(x.exp() + 1),
        lambda x: torch.log1p(torch.exp(x)),
        lambda x: torch.logaddexp(x, torch.zeros(())),
        lambda x: F.relu(x) + torch.log1p(torch.exp(-x.abs())),
        lambda x: -F.logsigmoid(-x),
    ],
    "sigmoid": [
        torch.sigmoid,
        F.sigmoid,
        lambda x: x.sigmoid(),
        lambda x: 1 / (1 + torch.exp(-x)),
        lambda x: torch.reciprocal(1 + (-x).exp()),
        lambda x: (1 + torch.exp(-x)) ** -1,
        lambda x: 0.5 * (1 + torch.tanh(x / 2)),
    ],
    "elu": [
        lambda x: F.elu(x, 0.7),
        lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
        lambda x: torch.where(x > 0, x, 0.7 * (torch.exp(x) - 1)),
        lambda x: torch.where(x > 0, x, 0.7 * torch.expm1(x)),
        lambda x: torch.where(x <= 0, x.exp() - 1, x),
        lambda x: torch.clamp(x, min=0) + torch.clamp(0.7 * (torch.exp(x) - 1), max=0),
        lambda x: F.relu(x) + torch.minimum(torch.expm1(x), torch.zeros_like(x)),
    ],
    "selu": [
        lambda x: 1.0507 * F.elu(x, 1.67326),
        F.selu,
        lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (torch.exp(x) - 1)),
        lambda x: 1.0507 * (x.clamp(min=0) + (1.67326 * (x.exp() - 1)).clamp(max=0)),
    ],
    "hardtanh": [
        lambda x: F.hardtanh(x, -2, 3),
        lambda x: torch.maximum(torch.minimum(x, torch.tensor(1.0)), torch.tensor(-1.0)),
        lambda x: torch.clamp(x, torch.tensor(-1.0), torch.tensor(1.0)),
    ],
    "celu": [
        lambda x: F.celu(x, 2.0),
        lambda x: torch.clamp(x, min=0) + torch.clamp(2 * (torch.exp(x / 2) - 1), max=0),
        lambda x: torch.where(x > 0, x, 2 * torch.expm1(x / 2)),
    ],
    "threshold": [
        lambda x: F.threshold(x, 0.5, -1.0),
        lambda x: torch.where(x > 0.5, x, -1),
        lambda x: torch.where(x > 0.5, x, torch.full_like(x, -1.0)),
        lambda x: x.masked_fill(x <= 0.5, -1.0),
        lambda x: x * (x > 1),
    ],
    "snake": [
        lambda x: x + torch.sin(1.5 * x) ** 2 / 1.5,
        lambda x: x + (1 / 1.5) * torch.sin(1.5 * x).square(),
    ],
    "tanhexp": [lambda x: x * torch.tanh(torch.exp(x)), lambda x: x.exp().tanh() * x],
    "phish": [lambda x: x * torch.tanh(F.gelu(x)), lambda x: F.gelu(x).tanh().mul(x)],
    "lisht": [lambda x: x * torch.tanh(x), lambda x: torch.tanh(x).mul(x)],
    "max_sigmoid": [lambda x: torch.max(x, torch.sigmoid(x)), lambda x: torch.maximum(x.sigmoid(), x)],
    "cos_minus": [lambda x: torch.cos(x) - x, lambda x: -x + x.cos()],
    "min_sin": [lambda x: torch.min(x, torch.sin(x))],
    "atan2_minus": [lambda x: torch.atan(x) ** 2 - x, lambda x: torch.arctan(x).square() - x],
    "max_tanh": [lambda x: torch.maximum(x, torch.tanh(x))],
    "sinc_plus": [
        lambda x: torch.sinc(x / math.pi) + x,
        lambda x: torch.where(x == 0, 1.0, torch.sin(x) / x) + x,
    ],
    "x_asinh2": [lambda x: x * torch.asinh(x) ** 2, lambda x: x * torch.arcsinh(x).square()],
    "softsign": [F.softsign, lambda x: x / (1 + x.abs())],
    "tanhshrink": [F.tanhshrink, lambda x: x - torch.tanh(x)],
    "logsigmoid": [F.logsigmoid, lambda x: torch.log(torch.sigmoid(x))],
}


CASES = [pytest.param(kind, f, id=f"{kind}-{i}") for kind, fs in SPELLINGS.items() for i, f in enumerate(fs)]


class Between(nn.Module):
    """linear, the function, linear: so that clamps act on features."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function, self.before, self.after, self.v = function, nn.Linear(5, 5), nn.Linear(5, 5), V

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


def matches(function: Function) -> list[Match]:
    tape = observe(Between(function), (torch.randn(4, 5),))
    return find(tape.ops, tape.values)
