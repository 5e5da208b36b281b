"""ACON-FReLU: the axes it convolves over, and TFNet's form with BatchNorm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from activation_modules import C, randomised, sample

from actswap import activations
from actswap import nn as AN
from actswap.errors import UsageError


@pytest.mark.parametrize("rows", [(4, C), (4, C, 5)])
def test_axes_that_an_input_lacks_have_length_one_for_acon_frelu(rows: tuple[int, ...]) -> None:
    module = randomised(activations.get("acon_frelu").build(C))
    x = sample(*rows)
    image = x.reshape(rows + (1,) * (4 - len(rows)))
    torch.testing.assert_close(module(x), module(image).reshape(rows))


def test_acon_frelu_with_batch_norm() -> None:
    """TFNet: x2 = BN(dwconv(x)), beta fixed at 1."""
    module = randomised(AN.AconFReLU(C, bn=True, trainable=False))
    x = sample()
    second = module.bn(F.conv2d(x, module.weight, module.bias, padding=1, groups=C))
    torch.testing.assert_close(module(x), (x - second) * torch.sigmoid(x - second) + second)


def test_a_kernel_with_one_centre_is_acon_b() -> None:
    """x2 = p x if only the centre of the kernel is set: the unit's start for PReLU."""
    unit, other = AN.AconFReLU(C, slope=0.25, beta=3.0), AN.AconB(C, p=0.25, beta=3.0)
    x = sample()
    torch.testing.assert_close(unit(x), other(x))


def test_an_input_with_more_axes_than_the_kernel_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="spatial=3"):
        AN.AconFReLU(C)(sample(2, C, 3, 3, 3))
