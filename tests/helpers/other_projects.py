"""Activations with the structure that other projects give them: nmaac/acon, DynamicReLU, ml-research/pau."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Acon(nn.Module):
    """ACON-C as nmaac/acon computes it: parameters of shape (1, C, 1, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.p1, self.p2 = nn.Parameter(torch.randn(1, width, 1, 1)), nn.Parameter(torch.randn(1, width, 1, 1))
        self.beta, self.sigmoid = nn.Parameter(torch.ones(1, width, 1, 1)), nn.Sigmoid()

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return (self.p1 * x - self.p2 * x) * self.sigmoid(self.beta * (self.p1 * x - self.p2 * x)) + self.p2 * x


class ShortAcon(Acon):
    """The same, with the difference named, as detection libraries write it."""

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        scaled = (self.p1 - self.p2) * x
        return scaled * torch.sigmoid(self.beta * scaled) + self.p2 * x


class MetaAcon(nn.Module):
    """meta-ACON: beta by a bottleneck on the pooled input."""

    def __init__(self, width: int, ratio: int = 16) -> None:
        super().__init__()
        inner = max(ratio, width // ratio)
        self.fc1, self.bn1 = nn.Conv2d(width, inner, 1), nn.BatchNorm2d(inner)
        self.fc2, self.bn2 = nn.Conv2d(inner, width, 1), nn.BatchNorm2d(width)
        self.p1, self.p2 = nn.Parameter(torch.randn(1, width, 1, 1)), nn.Parameter(torch.randn(1, width, 1, 1))
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        pooled = x.mean(dim=2, keepdims=True).mean(dim=3, keepdims=True)  # type: ignore[call-overload]
        beta = self.sigmoid(self.bn2(self.fc2(self.bn1(self.fc1(pooled)))))
        return (self.p1 * x - self.p2 * x) * self.sigmoid(beta * (self.p1 * x - self.p2 * x)) + self.p2 * x


class DyRelu(nn.Module):
    """DY-ReLU A (one set for a sample) or B (one for each channel of a sample), with k lines."""

    def __init__(self, channels: int, form: str, reduction: int = 4, k: int = 2) -> None:
        super().__init__()
        self.channels, self.k, self.form = channels, k, form
        sets = channels if form == "B" else 1
        self.fc1, self.relu = nn.Linear(channels, channels // reduction), nn.ReLU(inplace=True)
        self.fc2, self.sigmoid = nn.Linear(channels // reduction, 2 * k * sets), nn.Sigmoid()
        self.register_buffer("lambdas", torch.tensor([1.0] * k + [0.5] * k))
        self.register_buffer("init_v", torch.tensor([1.0] + [0.0] * (2 * k - 1)))

    def forward(self, x: Tensor) -> Tensor:
        theta = torch.mean(torch.mean(x, axis=-1), axis=-1)  # type: ignore[call-overload]
        theta = 2 * self.sigmoid(self.fc2(self.relu(self.fc1(theta)))) - 1
        if self.form == "A":
            coefs = theta.view(-1, 2 * self.k) * self.lambdas + self.init_v
            lines = x.transpose(0, -1).unsqueeze(-1) * coefs[:, : self.k] + coefs[:, self.k :]
            return torch.max(lines, dim=-1)[0].transpose(0, -1)
        coefs = theta.view(-1, self.channels, 2 * self.k) * self.lambdas + self.init_v
        lines = x.permute(2, 3, 0, 1).unsqueeze(-1) * coefs[:, :, : self.k] + coefs[:, :, self.k :]
        return torch.max(lines, dim=-1)[0].permute(2, 3, 0, 1)


def pade(x: Tensor, n: Tensor, d: Tensor) -> Tensor:
    """Form A, with the powers of x by repeated products."""
    d = d.abs()
    top, powers = x.mul(n[1]) + n[0], [x]
    for c in n[2:]:
        powers.append(powers[-1].mul(x))
        top = top + c.mul(powers[-1])
    bottom = x.abs() * d[0] + 1
    for i, c in enumerate(d[1:]):
        bottom = bottom + c.mul(powers[i + 1].abs())
    return top.div(bottom)


class PadeFunction(torch.autograd.Function):
    """The Padé unit of ml-research/pau in Python, with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, n: Tensor, d: Tensor) -> Tensor:
        ctx.save_for_backward(x, n, d)
        return pade(x, n, d)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            return torch.autograd.grad(pade(*inputs), inputs, grads[0])


class Pade(nn.Module):
    """The Padé unit as a module around the function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_numerator = nn.Parameter(torch.tensor([0.03, 0.505, 1.65, 2.01, 0.93, 0.15]))
        self.weight_denominator = nn.Parameter(torch.tensor([0.0, 3.98, 0.0, 0.30]))
        self.activation_function = PadeFunction.apply

    def forward(self, x: Tensor) -> Tensor:
        return self.activation_function(x, self.weight_numerator, self.weight_denominator)


class PadeB(Pade):
    """Form B, as sums of powers."""

    def forward(self, x: Tensor) -> Tensor:
        n, d = self.weight_numerator, self.weight_denominator
        top = sum(n[i] * x**i for i in range(6))
        return top / (1 + torch.abs(sum(d[i] * x ** (i + 1) for i in range(4))))
