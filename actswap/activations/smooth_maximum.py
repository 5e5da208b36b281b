"""The smooth maximum, from which the ACON family follows (Ma et al. 2021, Activate or Not, eq. 1-3)."""

from __future__ import annotations

import torch
from torch import Tensor

from actswap.ops.decompositions import is_finite_assumed

# Operations per element: two products for the argument, four for the sigmoid, a product, a multiply-add.
SMOOTH_FLOPS = 8


def smooth_maximum(values: Tensor, beta: Tensor | float, dim: int = 0) -> Tensor:
    """Smooth maximum of n values: sum_i v_i exp(beta v_i) / sum_i exp(beta v_i) (eq. 1).

    Tends to the maximum for beta -> inf, the mean for beta -> 0 and the minimum for beta -> -inf.

    Args:
        values: the n values along axis `dim`.
        beta: sharpness, broadcastable to `values`.
        dim: axis that is reduced.

    >>> values = torch.tensor([1.0, 2.0, 4.0])
    >>> [round(smooth_maximum(values, beta).item(), 3) for beta in (-100.0, 0.0, 100.0)]
    [1.0, 2.333, 4.0]
    """
    return (torch.softmax(beta * values, dim) * values).sum(dim)


def smooth_maximum_of_two(first: Tensor, second: Tensor, beta: Tensor | float) -> Tensor:
    """Smooth maximum of two values: (first - second) sigmoid(beta (first - second)) + second (eq. 2).

    >>> smooth_maximum_of_two(torch.tensor(3.0), torch.tensor(1.0), 0.0).item()  # beta 0 is the mean
    2.0
    """
    difference = first - second
    return difference * torch.sigmoid(beta * difference) + second


def smooth_maximum_of_lines(x: Tensor, p1: Tensor | float, p2: Tensor | float, beta: Tensor | float) -> Tensor:
    """Smooth maximum of the lines p1 x and p2 x; all arguments broadcast and have the type of x.

    Infinite x gives the formula's limit: the greater line (the lesser for beta < 0, their mean for beta = 0), and 0
    where its slope is 0; it has no part in the gradients of p1, p2 and beta.
    """
    difference = p1 - p2
    sharpness = beta * difference
    if is_finite_assumed():
        return x * (difference * torch.sigmoid(sharpness * x) + p2)
    infinite, zero = torch.isinf(x), torch.zeros((), dtype=x.dtype, device=x.device)
    inner = x.masked_fill(infinite, 0.0)
    y = inner * (difference * torch.sigmoid(sharpness * inner) + p2)
    with torch.no_grad():
        z, first, second = zero + sharpness, zero + p1, zero + p2
        mean = (first + second) / 2
        rising = torch.where(z > 0, first, torch.where(z < 0, second, mean))
        falling = torch.where(z < 0, first, torch.where(z > 0, second, mean))
        slope = torch.where(x > 0, rising, falling)
        far = infinite & (slope != 0)
    return y + slope * torch.where(far, x, zero)
