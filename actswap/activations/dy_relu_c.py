"""DY-ReLU C: DY-ReLU B times an attention over positions (Chen et al. 2020, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from actswap.activations.base import per_channel, widened
from actswap.activations.dy_relu import coefficients, max_of_lines


def dy_relu_c_formula(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    init: Tensor,
    lambdas: Tensor,
    ws: Tensor,
    bs: Tensor,
    tau: float,
    gain: float,
    dim: int,
) -> Tensor:
    """DY-ReLU C: DY-ReLU times gain min(gamma softmax((ws . x + bs) / tau), 1), gamma = positions / 3.

    Args:
        x: (N, ..., C, ...).
        w1: (H, C).
        b1: (H,).
        w2: (2K C, H).
        b2: (2K C,).
        init: the coefficients' centres, (2K, C) or (2K, 1).
        lambdas: the coefficients' ranges, (2K,).
        ws: weights of the attention, (C,) or (1,).
        bs: bias of the attention, (1,).
        tau: temperature of the softmax over positions.
        gain: factor on the attention; 1 is the paper's form, 3 makes an even attention the identity.
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.
    """
    t = widened(x)
    y = max_of_lines(t, coefficients(t, w1, b1, w2, b2, init, lambdas, dim), dim)
    score = (t * per_channel(ws, t, dim).to(t.dtype)).sum(dim, keepdim=True) + bs.to(t.dtype).reshape(())
    flat = score.flatten(1) / tau
    gate = torch.clamp(torch.softmax(flat, 1) * (flat.shape[1] / 3), max=1.0)
    return (y * (gain * gate.reshape(score.shape))).to(x.dtype)


dy_relu_c = dy_relu_c_formula
