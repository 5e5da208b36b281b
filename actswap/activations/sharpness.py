"""The trained sharpness beta of the ACON family, and the starts that follow from it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from actswap.activations.base import Activation
from actswap.activations.plain import PLAIN, evaluate
from actswap.errors import StartError
from actswap.sites import Number, Source

# max u sigmoid(-u), at u = 1.2784645: the largest distance of ACON from its maximum, times beta.
GAP = 0.27846454276107377


class SharpActivation(Activation):
    """An activation with a sharpness beta per channel, stored as log |beta| and a sign.

    The gradient of log beta falls as 0.44 / beta where that of beta falls as 0.44 / beta^2, so a sharp start
    still trains. The sign is a buffer: -1 turns the maximum into the minimum.
    """

    beta_sign: Tensor

    def __init__(self, channels: int | None, channel_dim: int, beta: float, trainable: bool = True) -> None:
        super().__init__(channels, channel_dim)
        log_beta = torch.full((self.width,), math.log(abs(beta)))
        if trainable:
            self.log_beta = nn.Parameter(log_beta)
        else:
            self.register_buffer("log_beta", log_beta)
        self.register_buffer("beta_sign", torch.full((self.width,), math.copysign(1.0, beta)))

    @property
    def beta(self) -> Tensor:
        """The sharpness, (C,) or (1,)."""
        return self.beta_sign * torch.exp(self.log_beta)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Accept `beta` itself, as the original checkpoints store it."""
        beta = state_dict.pop(prefix + "beta", None)
        if beta is not None:
            tiny = torch.finfo(beta.dtype).tiny
            state_dict[prefix + "log_beta"] = beta.abs().clamp_min(tiny).log()
            state_dict[prefix + "beta_sign"] = beta.sign()
        super()._load_from_state_dict(state_dict, prefix, *rest)


def slope_below(source: Source) -> Number | None:
    """The slope below zero of a source that is x above zero and a line below; None for any other."""
    if source.kind in ("leaky_relu", "prelu"):
        return source.get("slope", PLAIN[source.kind].constants["slope"])
    return {"relu": 0.0, "identity": 1.0}.get(source.kind)


def swish_beta(source: Source) -> Number | None:
    """The beta of a source that is x sigmoid(beta x); None for any other."""
    if source.kind == "swish":
        return source.get("beta", 1.0)
    return {"silu": 1.0, "quick_gelu": 1.702}.get(source.kind)


def each(value: Number, of: Any) -> Number:
    """Apply a function to a number, or to every channel's number."""
    return tuple(of(v) for v in value) if isinstance(value, tuple) else of(value)


def sharpness(beta: Number, log_name: str = "log_beta") -> dict[str, Number]:
    """The parameters that store a beta of either sign, per channel or not."""

    def log(b: float) -> float:
        return math.log(max(abs(b), 1e-30))

    def sign(b: float) -> float:
        return math.copysign(1.0, b) if b else 0.0

    return {log_name: each(beta, log), "beta_sign": each(beta, sign)}


def vanishes_at_zero(source: Source) -> bool:
    """Whether f(0) = 0, as every function of the ACON family has it."""
    channels = max((len(v) for _, v in source.params if isinstance(v, tuple)), default=1)
    zeros = torch.zeros(1, channels, dtype=torch.float64)
    return bool((evaluate(source, zeros).abs() < 1e-12).all())


def refuse_offset(source: Source, target: str) -> None:
    """Raise StartError for a source with f(0) != 0, which no member of the ACON family can follow."""
    if not vanishes_at_zero(source):
        value = float(evaluate(source, torch.zeros(1, 1, dtype=torch.float64)).flatten()[0])
        raise StartError(
            f"{target} has no start for {source}",
            why=f"the source is {value:g} at 0, and {target} is 0 there whatever its parameters",
            fix='start="morph", or another target such as pau',
        )
