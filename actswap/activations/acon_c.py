"""ACON-C: the smooth form of max(p1 x, p2 x) (Ma et al. 2021, Table 1 and eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from actswap import ops
from actswap.activations.acon_start import Member, acon_promise, acon_start
from actswap.activations.base import Spec, elements, per_channel, widened, with_sharing
from actswap.activations.options import Real, Rule, check
from actswap.activations.sharpness import BETA_RULES, SharpActivation
from actswap.activations.smooth_maximum import SMOOTH_FLOPS, smooth_maximum_of_lines


def acon_c_formula(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, dim: int) -> Tensor:
    """ACON-C: (p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x.

    Args:
        x: input of any shape.
        p1: slope of the first line, (C,) or (1,).
        p2: slope of the second line, (C,) or (1,).
        beta: sharpness, (C,) or (1,); negative turns the maximum into the minimum.
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.

    >>> one = torch.ones(1)
    >>> acon_c_formula(torch.tensor([[-1.0, 0.0, 2.0]]), one, 0 * one, 5 * one, 1)
    tensor([[-0.0067,  0.0000,  1.9999]])
    """
    t = widened(x)
    p1, p2, beta = (per_channel(v, t, dim).to(t.dtype) for v in (p1, p2, beta))
    return smooth_maximum_of_lines(t, p1, p2, beta).to(x.dtype)


acon_c = ops.define(
    "acon_c(Tensor x, Tensor p1, Tensor p2, Tensor beta, int dim) -> Tensor",
    acon_c_formula,
)


class AconC(SharpActivation):
    """ACON-C, with p1, p2 and beta trained per channel or per layer; loads the original checkpoints.

    The original draws p1 and p2 from a normal distribution; here the unit begins as SiLU.

    Args:
        channels: width of the channel axis; None for one set per layer.
        channel_dim: index of the channel axis.
        p1: slope of the first line at first.
        p2: slope of the second line at first.
        beta: sharpness at first, or `log` or `raw`, which stand for beta_as with sharpness 1.
        beta_as: what is trained: `log` beta, or beta itself (`raw`), which may pass through 0.

    >>> AconC(1, p1=1.0, p2=0.25, beta=0)(torch.full((1, 1), 2.0)).item()
    1.25
    """

    name = "acon_c"

    def __init__(
        self,
        channels: int | None,
        channel_dim: int = 1,
        p1: float = 1.0,
        p2: float = 0.0,
        beta: float | str = 1.0,
        beta_as: str = "log",
    ) -> None:
        check("AconC", _RULES, {"p1": p1, "p2": p2})
        super().__init__(channels, channel_dim, beta, beta_as=beta_as)
        self.p1 = nn.Parameter(torch.full((self.width,), float(p1)))
        self.p2 = nn.Parameter(torch.full((self.width,), float(p2)))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the smooth maximum of p1 x and p2 x."""
        return acon_c(x, self.p1, self.p2, self.beta, self.channel_dim)


_RULES: Mapping[str, Rule] = {"p1": Real(), "p2": Real(), **BETA_RULES}
_MEMBER = Member("acon_c", "p1 p2")
SPEC = Spec(
    name="acon_c",
    title="smooth maximum of p1 x and p2 x",
    paper="Ma et al. 2021, Activate or Not, eq. 4",
    build=with_sharing(AconC, True),
    promise=lambda source: acon_promise(source, _MEMBER),
    start=lambda source, context: acon_start(source, context, _MEMBER),
    options={"p1": 1.0, "p2": 0.0, "beta": 1.0, "beta_as": "log", "per_channel": True},
    no_decay=("p1", "p2", "log_beta", "raw_beta"),
    rules=_RULES,
    flops=lambda module, shape: SMOOTH_FLOPS * elements(shape),
)
