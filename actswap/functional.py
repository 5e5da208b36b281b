"""The activations as functions of tensors: x, the parameters (C,) or (1,), and the channel axis.

x is (N, ..., C, ...) with its channels on axis `dim`; the result is like x, and differentiable in every tensor.
Arguments are positional, in the order of the torch operator: x, the parameters, and `dim` last.

>>> import torch
>>> from actswap import functional as AF
>>> x, one = torch.tensor([[-1.0, 0.0, 2.0]]), torch.ones(3)
>>> AF.swish(x, one, 1)  # x sigmoid(beta x)
tensor([[-0.2689,  0.0000,  1.7616]])
>>> AF.acon_b(x, 0.25 * one, 50 * one, 1)  # a smooth maximum of x and p x: nearly LeakyReLU(0.25)
tensor([[-0.2500,  0.0000,  2.0000]])
>>> AF.acon_c(x, one, 0 * one, 5 * one, 1)  # a smooth maximum of p1 x and p2 x: a soft ReLU
tensor([[-0.0067,  0.0000,  1.9999]])

`pau` and `opau` take the range and the tails as a tensor: scale, lo, hi, and the slopes below and above.

>>> tails = torch.tensor([1.0, -3.0, 3.0, 0.0, 1.0])
>>> AF.pau(x, torch.tensor([0.0, 1.0]), torch.tensor([1.0]), tails, "A", 1)  # x / (1 + |x|), Molina et al. 2020
tensor([[-0.5000,  0.0000,  0.6667]])

`meta_acon` and `dy_relu` compute their coefficients from the mean of each sample, through two linear layers.

>>> w1, b1, w2, b2 = torch.zeros(2, 3), torch.zeros(2), torch.zeros(3, 2), torch.zeros(3)
>>> AF.meta_acon(x, one, 0 * one, 2 * one, w1, b1, w2, b2, 1)  # beta = 2 sigmoid(0) = 1: SiLU
tensor([[-0.2689,  0.0000,  1.7616]])

A plain function is named by a `Source`.

>>> from actswap.sites import Source
>>> AF.evaluate(Source.of("leaky_relu", slope=0.5), x)
tensor([[-0.5000,  0.0000,  2.0000]])
"""

from actswap.activations.acon_b import acon_b
from actswap.activations.acon_c import acon_c
from actswap.activations.dy_relu import dy_relu
from actswap.activations.dy_relu_c import dy_relu_c
from actswap.activations.meta_acon import meta_acon
from actswap.activations.opau import opau
from actswap.activations.pau import pau
from actswap.activations.plain import evaluate
from actswap.activations.smooth_maximum import smooth_maximum, smooth_maximum_of_two
from actswap.activations.swish import swish

acon_a = swish

__all__ = [
    "acon_a",
    "acon_b",
    "acon_c",
    "dy_relu",
    "dy_relu_c",
    "evaluate",
    "meta_acon",
    "opau",
    "pau",
    "smooth_maximum",
    "smooth_maximum_of_two",
    "swish",
]
