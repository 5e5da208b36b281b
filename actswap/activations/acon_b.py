"""ACON-B: the smooth form of PReLU (Ma et al. 2021, Table 1)."""

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


def acon_b_formula(x: Tensor, p: Tensor, beta: Tensor, dim: int) -> Tensor:
    """ACON-B: (1 - p) x sigmoid(beta (1 - p) x) + p x.

    Args:
        x: input of any shape.
        p: slope of the second line, (C,) or (1,).
        beta: sharpness, (C,) or (1,).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.

    >>> acon_b_formula(torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([0.25]), torch.tensor([50.0]), 1)
    tensor([[-0.2500,  0.0000,  2.0000]])
    """
    t = widened(x)
    p, beta = (per_channel(v, t, dim).to(t.dtype) for v in (p, beta))
    return smooth_maximum_of_lines(t, 1.0, p, beta).to(x.dtype)


acon_b = ops.define("acon_b(Tensor x, Tensor p, Tensor beta, int dim) -> Tensor", acon_b_formula)


class AconB(SharpActivation):
    """ACON-B, with p and beta trained per channel or per layer.

    Args:
        channels: width of the channel axis; None for one set per layer.
        channel_dim: index of the channel axis.
        p: slope below zero at first.
        beta: sharpness at first, or `log` or `raw`, which stand for beta_as with sharpness 1.
        beta_as: what is trained: `log` beta, or beta itself (`raw`), which may pass through 0.

    >>> AconB(1, p=0.5, beta=0)(torch.full((1, 1), 2.0)).item()
    1.5
    """

    name = "acon_b"

    def __init__(
        self,
        channels: int | None,
        channel_dim: int = 1,
        p: float = 0.25,
        beta: float | str = 1.0,
        beta_as: str = "log",
    ) -> None:
        check("AconB", _RULES, {"p": p})
        super().__init__(channels, channel_dim, beta, beta_as=beta_as)
        self.p = nn.Parameter(torch.full((self.width,), float(p)))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the smooth maximum of x and p x."""
        return acon_b(x, self.p, self.beta, self.channel_dim)


_RULES: Mapping[str, Rule] = {"p": Real(), **BETA_RULES}
_MEMBER = Member("acon_b", "p2")
SPEC = Spec(
    name="acon_b",
    title="smooth maximum of x and p x",
    paper="Ma et al. 2021, Activate or Not, Table 1",
    build=with_sharing(AconB, True),
    promise=lambda source: acon_promise(source, _MEMBER),
    start=lambda source, context: acon_start(source, context, _MEMBER),
    options={"p": 0.25, "beta": 1.0, "beta_as": "log", "per_channel": True},
    no_decay=("p", "log_beta", "raw_beta"),
    rules=_RULES,
    flops=lambda module, shape: SMOOTH_FLOPS * elements(shape),
)
