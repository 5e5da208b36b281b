"""DY-ReLU A and B: the maximum of K lines with coefficients computed from the input (Chen et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from actswap.activations.base import affine, per_sample, pooled_mean, widened


def dy_relu_formula(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    init: Tensor,
    lambdas: Tensor,
    dim: int,
) -> Tensor:
    """DY-ReLU: y = max_k (a_k x + b_k), (a, b) = init + lambdas (2 sigmoid(w2 relu(w1 m + b1) + b2) - 1).

    The 2K coefficients are ordered a_1 .. a_K, b_1 .. b_K; row j C + c of w2 is coefficient j of channel c.

    Args:
        x: (N, ..., C, ...).
        w1: (H, C); (H, 1) pools over the channels too.
        b1: (H,).
        w2: (2K C, H), or (2K, H) where all channels share the coefficients (variant A).
        b2: (2K C,) or (2K,).
        init: the coefficients' centres, (2K, C) or (2K, 1).
        lambdas: the coefficients' ranges, (2K,).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.
    """
    t = widened(x)
    return max_of_lines(t, coefficients(t, w1, b1, w2, b2, init, lambdas, dim), dim).to(x.dtype)


def coefficients(
    t: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, init: Tensor, lambdas: Tensor, dim: int
) -> Tensor:
    """The coefficients of each sample, (N, 2K, C) or (N, 2K, 1)."""
    hidden = torch.relu(affine(w1, b1, pooled_mean(t, dim, w1.shape[1])))
    theta = 2 * torch.sigmoid(affine(w2, b2, hidden)) - 1
    rows = lambdas.numel()
    residual = lambdas.to(t.dtype).reshape(rows, 1) * theta.reshape(t.shape[0], rows, -1)
    return init.to(t.dtype) + residual


def max_of_lines(t: Tensor, coef: Tensor, dim: int) -> Tensor:
    """The maximum of the K lines of each sample and channel; coef is (N, 2K, C or 1)."""
    count = coef.shape[1] // 2
    rows = [per_sample(row, t, dim) for row in coef.unbind(1)]
    slope, shift = rows[:count], rows[count:]
    y = slope[0] * t + shift[0]
    for k in range(1, count):
        y = torch.maximum(y, slope[k] * t + shift[k])
    return y


dy_relu = dy_relu_formula
