"""Swish, x sigmoid(beta x) (Ramachandran et al. 2017, eq. 1), with a constant or trained beta."""

from __future__ import annotations

from torch import Tensor

from actswap.activations.base import per_channel, widened
from actswap.activations.smooth_maximum import smooth_maximum_of_lines


def swish_formula(x: Tensor, beta: Tensor, dim: int) -> Tensor:
    """Swish, and ACON-A: x sigmoid(beta x).

    Args:
        x: input of any shape.
        beta: (C,) or (1,).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.
    """
    t = widened(x)
    return smooth_maximum_of_lines(t, 1.0, 0.0, per_channel(beta, t, dim).to(t.dtype)).to(x.dtype)


swish = swish_formula
