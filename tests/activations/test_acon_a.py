"""ACON-A is Swish under the name that Ma et al. 2021 give it; beta may pass through 0 in the raw form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from activation_modules import line, one

from actswap import functional as AF
from actswap import nn as AN


def test_acon_a_is_swish_and_swish_1_is_silu() -> None:
    x = line()
    assert AF.acon_a is AF.swish
    torch.testing.assert_close(AF.swish(x, one(1.0), 1), F.silu(x), rtol=1e-13, atol=1e-13)


def test_the_state_of_acon_a_loads_into_swish() -> None:
    first, second = AN.AconA(4, beta=-2.5), AN.Swish(4)
    second.load_state_dict(first.state_dict())
    x = line(41).expand(2, 4, -1).float()
    assert torch.equal(first(x), second(x)) and first.name == "acon_a"


def test_raw_beta_passes_through_0_where_the_unit_is_half_of_x() -> None:
    """df/dbeta = x^2 / 4 at beta = 0: the logarithm could not leave it, the raw form does."""
    unit, x = AN.AconA(None, beta=0.0).double(), line(101)
    y = unit(x)
    assert torch.equal(y, x / 2)
    y.sum().backward()
    torch.testing.assert_close(unit.raw_beta.grad, (x.square() / 4).sum().reshape(1))
