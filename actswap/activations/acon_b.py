"""ACON-B: the smooth form of PReLU (Ma et al. 2021, Table 1)."""

from __future__ import annotations

from torch import Tensor

from actswap.activations.base import per_channel, widened
from actswap.activations.smooth_maximum import smooth_maximum_of_lines


def acon_b_formula(x: Tensor, p: Tensor, beta: Tensor, dim: int) -> Tensor:
    """ACON-B: (1 - p) x sigmoid(beta (1 - p) x) + p x.

    Args:
        x: input of any shape.
        p: slope of the second line, (C,) or (1,).
        beta: sharpness, (C,) or (1,).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.
    """
    t = widened(x)
    p, beta = (per_channel(v, t, dim).to(t.dtype) for v in (p, beta))
    return smooth_maximum_of_lines(t, 1.0, p, beta).to(x.dtype)


acon_b = acon_b_formula
