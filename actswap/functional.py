"""The activations as functions of tensors: x, the parameters (C,) or (1,), and the channel axis."""

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
