"""Swish, x sigmoid(beta x) (Ramachandran et al. 2017), with a constant or trained beta."""

from __future__ import annotations

from torch import Tensor, nn

from actswap import ops
from actswap.activations.acon_start import Member, acon_promise, acon_start
from actswap.activations.base import Spec, elements, per_channel, widened, with_sharing
from actswap.activations.sharpness import BETA_RULES, SharpActivation
from actswap.activations.smooth_maximum import smooth_maximum_of_lines


def swish_formula(x: Tensor, beta: Tensor, dim: int) -> Tensor:
    """Swish, and ACON-A: x sigmoid(beta x).

    Args:
        x: input of any shape.
        beta: (C,) or (1,).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.

    >>> import torch
    >>> swish_formula(torch.tensor([[-1.0, 0.0, 2.0]]), torch.ones(1), 1)
    tensor([[-0.2689,  0.0000,  1.7616]])
    """
    t = widened(x)
    return smooth_maximum_of_lines(t, 1.0, 0.0, per_channel(beta, t, dim).to(t.dtype)).to(x.dtype)


swish = ops.define("swish(Tensor x, Tensor beta, int dim) -> Tensor", swish_formula)


class Swish(SharpActivation):
    """Swish with beta constant, trained per layer or trained per channel.

    Args:
        channels: width of the channel axis; None for one beta per layer.
        channel_dim: index of the channel axis.
        beta: the value at first; 1 is SiLU, 1.702 is near GELU; `log` or `raw` stand for beta_as with the value 1.
        trainable: whether beta is a parameter; else a buffer.
        beta_as: what is trained: `log` beta, or beta itself (`raw`), which may pass through 0.

    >>> import torch
    >>> Swish(beta=0)(torch.tensor(2.0)).item()
    1.0
    """

    name = "swish"

    def __init__(
        self,
        channels: int | None = None,
        channel_dim: int = 1,
        beta: float | str = 1.0,
        trainable: bool = True,
        beta_as: str = "log",
    ) -> None:
        super().__init__(channels, channel_dim, beta, trainable, beta_as)

    def forward(self, x: Tensor) -> Tensor:
        """Compute x sigmoid(beta x)."""
        return swish(x, self.beta, self.channel_dim)


def _flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Two products and four operations for the sigmoid per element."""
    return 6 * elements(shape)


_MEMBER = Member("swish", "")
SPEC = Spec(
    name="swish",
    title="x sigmoid(beta x), beta constant or trained",
    paper="Ramachandran et al. 2017, Searching for Activation Functions",
    build=with_sharing(Swish, True),
    promise=lambda source: acon_promise(source, _MEMBER),
    start=lambda source, context: acon_start(source, context, _MEMBER),
    options={"beta": 1.0, "beta_as": "log", "trainable": True, "per_channel": True},
    no_decay=("log_beta", "raw_beta"),
    rules=BETA_RULES,
    flops=_flops,
)
