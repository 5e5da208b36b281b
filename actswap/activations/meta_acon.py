"""meta-ACON: ACON-C whose sharpness is computed from the input (Ma et al. 2021, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from actswap.activations.base import affine, per_channel, per_sample, pooled_mean, widened
from actswap.activations.smooth_maximum import smooth_maximum_of_lines


def meta_acon_formula(
    x: Tensor,
    p1: Tensor,
    p2: Tensor,
    scale: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    dim: int,
) -> Tensor:
    """ACON-C with beta = scale sigmoid(w2 (w1 m + b1) + b2), m the mean over positions, one beta per sample.

    Args:
        x: (N, ..., C, ...).
        p1: slope of the first line, (C,) or (1,).
        p2: slope of the second line, (C,) or (1,).
        scale: upper bound of beta, (C,) or (1,).
        w1: (H, C); (H, 1) pools over the channels too.
        b1: (H,).
        w2: (C, H); (1, H) gives one beta per sample.
        b2: (C,) or (1,).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.
    """
    t = widened(x)
    m = pooled_mean(t, dim, w1.shape[1])
    beta = scale.to(t.dtype) * torch.sigmoid(affine(w2, b2, affine(w1, b1, m)))
    p1, p2 = (per_channel(v, t, dim).to(t.dtype) for v in (p1, p2))
    return smooth_maximum_of_lines(t, p1, p2, per_sample(beta, t, dim)).to(x.dtype)


meta_acon = meta_acon_formula
