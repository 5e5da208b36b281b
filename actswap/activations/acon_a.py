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
        beta: the value at first, or `log` or `raw`, which stand for beta_as with the value 1.
        beta_as: what is trained: `log` beta, or beta itself (`raw`), which may pass through 0.

    >>> import torch
    >>> AconA(channels=3)(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    name = "acon_a"

    def __init__(
        self, channels: int | None, channel_dim: int = 1, beta: float | str = 1.0, beta_as: str = "log"
    ) -> None:
        super().__init__(channels, channel_dim, beta, beta_as=beta_as)


_MEMBER = Member("acon_a", "")
SPEC = replace(
    _swish.SPEC,
    name="acon_a",
    title="smooth maximum of x and 0: x sigmoid(beta x)",
    paper="Ma et al. 2021, Activate or Not, Table 1",
    build=with_sharing(AconA, True),
    promise=lambda source: acon_promise(source, _MEMBER),
    start=lambda source, context: acon_start(source, context, _MEMBER),
    options={"beta": 1.0, "beta_as": "log", "per_channel": True},
)
