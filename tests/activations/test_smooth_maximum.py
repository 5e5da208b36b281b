"""The smooth maximum and Table 1 of Ma et al. 2021: its limits, and the units that follow from it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from activation_modules import line, one

from actswap import functional as AF
from actswap import nn as AN
from actswap.activations.smooth_maximum import smooth_maximum


def test_smooth_maximum_limits() -> None:
    """beta -> inf is the maximum, 0 the mean, -inf the minimum."""
    values = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(smooth_maximum(values, 1e9), values.amax(0))
    torch.testing.assert_close(smooth_maximum(values, 0.0), values.mean(0))
    torch.testing.assert_close(smooth_maximum(values, -1e9), values.amin(0))


def conv(x: torch.Tensor) -> torch.Tensor:
    return F.conv1d(x, torch.tensor([[[0.3, -0.2, 0.5]]], dtype=x.dtype), padding=1)


TABLE_1 = {
    "relu": ([lambda x: x, lambda x: 0 * x], lambda x, b: AF.swish(x, one(b), 1), F.relu),
    "prelu": (
        [lambda x: x, lambda x: 0.3 * x],
        lambda x, b: AF.acon_b(x, one(0.3), one(b), 1),
        lambda x: F.prelu(x, one(0.3)),
    ),
    "maxout": (
        [lambda x: 1.2 * x, lambda x: -0.8 * x],
        lambda x, b: AF.acon_c(x, one(1.2), one(-0.8), one(b), 1),
        lambda x: torch.maximum(1.2 * x, -0.8 * x),
    ),
    "frelu": ([lambda x: x, conv], None, lambda x: torch.maximum(x, conv(x))),
}


@pytest.mark.parametrize("row", TABLE_1)
def test_table_1(row: str) -> None:
    """The smooth maximum of the row's two functions is the named unit, and tends to the named maximum."""
    functions, unit, maximum = TABLE_1[row]
    x = line()
    for beta in (1.0, 7.0):
        smooth = smooth_maximum(torch.stack([f(x) for f in functions]), beta)
        if unit is None:
            module = AN.AconFReLU(1, spatial=1, beta=beta).double()
            with torch.no_grad():
                module.weight.copy_(torch.tensor([[[0.3, -0.2, 0.5]]]))
            # The kernel is stored in float32 before .double(): 1e-8 relative.
            torch.testing.assert_close(module(x), smooth, rtol=1e-6, atol=1e-6)
        else:
            torch.testing.assert_close(unit(x, beta), smooth, rtol=1e-12, atol=1e-12)
    far = smooth_maximum(torch.stack([f(x) for f in functions]), 1e8)
    torch.testing.assert_close(far, maximum(x), rtol=0, atol=0.28 / 1e8)
