"""ACON-A: the smooth form of ReLU, which is Swish (Ma et al. 2021, Table 1)."""

from __future__ import annotations

from dataclasses import replace

from actswap.activations import swish as _swish
from actswap.activations.acon_start import Member, acon_promise, acon_start
from actswap.activations.base import with_sharing
from actswap.activations.swish import swish, swish_formula

__all__ = ["SPEC", "AconA", "swish", "swish_formula"]


class AconA(_swish.Swish):
    """ACON-A: x sigmoid(beta x), beta trained per channel or per layer.

    Args:
        channels: width of the channel axis; None for one beta per layer.
        channel_dim: index of the channel axis.
        beta: the value at first.
    """

    name = "acon_a"

    def __init__(self, channels: int | None, channel_dim: int = 1, beta: float = 1.0) -> None:
        super().__init__(channels, channel_dim, beta)


_MEMBER = Member("acon_a", "")
SPEC = replace(
    _swish.SPEC,
    name="acon_a",
    title="smooth maximum of x and 0: x sigmoid(beta x)",
    paper="Ma et al. 2021, Activate or Not, Table 1",
    build=with_sharing(AconA, True),
    promise=lambda source: acon_promise(source, _MEMBER),
    start=lambda source, context: acon_start(source, context, _MEMBER),
    options={"beta": 1.0, "per_channel": True},
)
