"""The activations as public code writes them, in eager PyTorch: what a user has without kernels.

Written from the papers and from what the released implementations do (order of operations, axes moved), for timing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def swish(x: Tensor, beta: Tensor, dim: int) -> Tensor:
    return x * torch.sigmoid(_channels(beta, x, dim) * x)


def acon_c(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, dim: int) -> Tensor:
    p1, p2, beta = (_channels(p, x, dim) for p in (p1, p2, beta))
    return (p1 * x - p2 * x) * torch.sigmoid(beta * (p1 * x - p2 * x)) + p2 * x


def meta_acon(
    x: Tensor, p1: Tensor, p2: Tensor, scale: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, dim: int
) -> Tensor:
    """Means one axis after the other and the two layers as 1x1 convolutions; inputs (N, C, H, W)."""
    mean = x.mean(2, keepdim=True).mean(3, keepdim=True)
    hidden = torch.nn.functional.conv2d(mean, w1[:, :, None, None], b1)
    beta = torch.sigmoid(torch.nn.functional.conv2d(hidden, w2[:, :, None, None], b2)) * _channels(scale, x, dim)
    p1, p2 = _channels(p1, x, dim), _channels(p2, x, dim)
    return (p1 * x - p2 * x) * torch.sigmoid(beta * (p1 * x - p2 * x)) + p2 * x


def dy_relu(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, init: Tensor, lambdas: Tensor, dim: int
) -> Tensor:
    """Coefficients on an axis of their own at the end, channels moved there, a maximum over that axis."""
    count = lambdas.numel()
    theta = x.mean(-1).mean(-1) if x.dim() == 4 else x.mean(1)
    theta = torch.relu(torch.nn.functional.linear(theta, w1, b1))
    theta = 2 * torch.sigmoid(torch.nn.functional.linear(theta, w2, b2)) - 1
    theta = theta.reshape(x.shape[0], count, -1).transpose(1, 2)  # (N, C or 1, 2K)
    coefficients = theta * lambdas + init.t()
    last = x.movedim(0, -1).movedim(dim - 1 if dim > 0 else -2, -1).unsqueeze(-1)  # (..., N, C, 1)
    lines = last * coefficients[..., : count // 2] + coefficients[..., count // 2 :]
    return lines.max(-1).values.movedim(-1, dim - 1 if dim > 0 else -2).movedim(-1, 0)


def pau(x: Tensor, a: Tensor, b: Tensor, tails: Tensor, form: str, dim: int) -> Tensor:
    """Every power of x kept beside x, then two sums of products; form A, one set for the layer, no tails."""
    assert form == "A" and a.dim() == 1, "the released code has one set per layer"
    powers = [torch.ones_like(x), x]
    for _ in range(max(len(a) - 1, len(b)) - 1):
        powers.append(powers[-1] * x)
    numerator = sum(c * p for c, p in zip(a, powers, strict=False))
    denominator = 1 + sum((c * p).abs() for c, p in zip(b, powers[1:], strict=False))
    return numerator / denominator


def _channels(p: Tensor, x: Tensor, dim: int) -> Tensor:
    return p.reshape([-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())])


FORMS = {"swish": swish, "acon_c": acon_c, "meta_acon": meta_acon, "dy_relu": dy_relu, "pau": pau}
