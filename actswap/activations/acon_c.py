"""ACON-C: the smooth form of max(p1 x, p2 x) (Ma et al. 2021, Table 1 and eq. 4)."""

from __future__ import annotations

from torch import Tensor

from actswap.activations.base import per_channel, widened
from actswap.activations.smooth_maximum import smooth_maximum_of_lines


def acon_c_formula(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, dim: int) -> Tensor:
    """ACON-C: (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x.

    Args:
        x: input of any shape.
        p1: slope of the first line, (C,) or (1,).
        p2: slope of the second line, (C,) or (1,).
        beta: sharpness, (C,) or (1,); negative turns the maximum into the minimum.
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.
    """
    t = widened(x)
    p1, p2, beta = (per_channel(v, t, dim).to(t.dtype) for v in (p1, p2, beta))
    return smooth_maximum_of_lines(t, p1, p2, beta).to(x.dtype)


acon_c = acon_c_formula
