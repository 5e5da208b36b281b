"""The activations as modules, for networks that are written with them."""

from actswap.activations.acon_a import AconA
from actswap.activations.acon_b import AconB
from actswap.activations.acon_c import AconC
from actswap.activations.acon_frelu import AconFReLU
from actswap.activations.bounded import Bounded
from actswap.activations.dy_relu import DyReLU, DyReLUA, DyReLUB
from actswap.activations.dy_relu_c import DyReLUC
from actswap.activations.meta_acon import MetaAcon
from actswap.activations.morph import Morph, finalize
from actswap.activations.opau import HP1, HP2, OPAU
from actswap.activations.pau import PAU
from actswap.activations.plain import SourceModule
from actswap.activations.schedule import LinearSchedule, anneal, morph_schedule, temperature_schedule
from actswap.activations.swish import Swish
from actswap.sites import Source


def plain(name: str, **constants: float) -> SourceModule:
    """A plain activation by name (`mish`, `gelu_tanh`, `tanhsoft1`, ...), with constants where it has some."""
    return SourceModule(Source.of(name, **constants))


__all__ = [
    "HP1",
    "HP2",
    "OPAU",
    "PAU",
    "AconA",
    "AconB",
    "AconC",
    "AconFReLU",
    "Bounded",
    "DyReLU",
    "DyReLUA",
    "DyReLUB",
    "DyReLUC",
    "LinearSchedule",
    "MetaAcon",
    "Morph",
    "SourceModule",
    "Swish",
    "anneal",
    "finalize",
    "morph_schedule",
    "plain",
    "temperature_schedule",
]
