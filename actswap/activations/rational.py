"""What the Padé units share: coefficients per channel, clamp to a range with linear tails, Horner's rule."""

from __future__ import annotations

import torch
from torch import Tensor

from actswap.activations.base import per_channel


def columns(coefficients: Tensor, x: Tensor, dim: int) -> list[Tensor]:
    """Split (n,) or (C, n) coefficients into n tensors that broadcast along `dim` of x, in the type of x."""
    return [
        per_channel(c, x, dim).to(x.dtype)
        for c in coefficients.reshape(-1, coefficients.shape[-1]).unbind(-1)
    ]


def rational_type(x: Tensor) -> Tensor:
    """Return x in the type rationals are evaluated in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def clamp_and_tails(x: Tensor, tails: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Split x into t = clamp(x, lo, hi) / s and the tails slope_lo min(x - lo, 0) + slope_hi max(x - hi, 0).

    Args:
        x: float32 or float64.
        tails: (5,) or (C, 5): s, lo, hi, slope_lo, slope_hi.
        dim: the channel axis of x.
    """
    scale, low, high, slope_low, slope_high = columns(tails, x, dim)
    below, above = torch.relu(low - x), torch.relu(x - high)
    # A flat tail stays flat at infinity, where 0 * inf would be NaN.
    below = torch.where((slope_low == 0) & torch.isinf(below), 0.0, below)
    above = torch.where((slope_high == 0) & torch.isinf(above), 0.0, above)
    return torch.clamp(x, low, high) / scale, slope_high * above - slope_low * below


def horner(coefficients: list[Tensor], t: Tensor) -> Tensor:
    """The polynomial with these coefficients, constant first."""
    y = coefficients[-1].expand_as(t) if len(coefficients) == 1 else coefficients[-1]
    for c in reversed(coefficients[:-1]):
        y = y * t + c
    return y
