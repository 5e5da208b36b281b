"""The activations as modules, for networks that are written with them.

>>> import torch
>>> from actswap import nn
>>> unit = nn.AconC(channels=3, channel_dim=1)  # begins as SiLU; p1, p2 and beta train
>>> sorted(name for name, _ in unit.named_parameters()), unit(torch.zeros(2, 3, 4, 4)).shape
(['log_beta', 'p1', 'p2'], torch.Size([2, 3, 4, 4]))
"""

import difflib

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
from actswap.activations.plain import PLAIN, SourceModule
from actswap.activations.schedule import LinearSchedule, anneal, morph_schedule, temperature_schedule
from actswap.activations.swish import Swish
from actswap.errors import UsageError
from actswap.sites import Source


def plain(name: str, **constants: float) -> SourceModule:
    """Build a plain activation, which trains nothing.

    Args:
        name: `mish`, `gelu_tanh`, `tanhsoft1`, ...; `actswap list --all` shows them.
        **constants: values of its constants; those that are left out have their defaults.

    Returns:
        The module.

    Raises:
        UsageError: there is no such function, or it has no such constant.

    Example:
        >>> plain("leaky_relu", slope=0.5)
        SourceModule(leaky_relu(slope=0.5))
    """
    if name not in PLAIN:
        near = difflib.get_close_matches(name, PLAIN, n=3, cutoff=0.4)
        raise UsageError(f"there is no plain activation {name!r}", fix=f"one of {', '.join(near or PLAIN)}")
    known = PLAIN[name].constants
    unknown = [key for key in constants if key not in known]
    if unknown:
        raise UsageError(f"{name} has no constant {unknown[0]!r}", fix=f"one of {', '.join(known) or 'none'}")
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
