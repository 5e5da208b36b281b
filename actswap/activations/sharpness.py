"""The trained sharpness beta of the ACON family, and the starts that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from actswap.activations.base import Activation
from actswap.activations.options import Flag, OneOf, Real, Rule, check
from actswap.activations.plain import PLAIN, evaluate, known
from actswap.errors import StartError
from actswap.sites import Number, Source

# max u sigmoid(-u), at u = 1.2784645: the largest distance of ACON from its maximum, times beta.
GAP = 0.27846454276107377


BETA_AS = ("log", "raw")


@dataclass(frozen=True)
class Beta:
    """The rule of the option `beta`: its first value, or a word of BETA_AS for how it trains (first value 1)."""

    def accepts(self, value: Any) -> bool:
        """True if value is a finite number, or one of the words."""
        return Real().accepts(value) or OneOf(BETA_AS).accepts(value)

    def __str__(self) -> str:
        return "a finite number, or how it is trained: log or raw"


BETA_RULES: Mapping[str, Rule] = {"beta": Beta(), "beta_as": OneOf(BETA_AS), "trainable": Flag(), "per_channel": Flag()}


def beta_and_form(beta: float | str, beta_as: str) -> tuple[float, str]:
    """Resolve the options beta and beta_as into the first value and `log` or `raw`; 0 has no logarithm."""
    if isinstance(beta, str):
        return 1.0, beta
    return float(beta), "raw" if beta == 0 else beta_as


class SharpActivation(Activation):
    """An activation with a sharpness beta per channel, stored as log |beta| and a sign, or as it is.

    The gradient of log beta falls as 0.44 / beta where that of beta falls as 0.44 / beta^2, so a sharp start
    still trains. The sign is a buffer: -1 turns the maximum into the minimum. `raw` is the papers' form: beta is the
    parameter `raw_beta`, it can pass through 0, where the unit is linear, and it has a gradient there. Checkpoints of
    either form load into both.
    """

    beta_sign: Tensor

    def __init__(
        self,
        channels: int | None,
        channel_dim: int,
        beta: float | str,
        trainable: bool = True,
        beta_as: str = "log",
    ) -> None:
        super().__init__(channels, channel_dim)
        check(type(self).__name__, BETA_RULES, {"beta": beta, "trainable": trainable, "beta_as": beta_as})
        value, self.beta_as = beta_and_form(beta, beta_as)
        named = {"raw_beta": value} if self.beta_as == "raw" else {"log_beta": math.log(abs(value))}
        for name, first in named.items():
            tensor = torch.full((self.width,), first)
            if trainable:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)
        if self.beta_as == "log":
            self.register_buffer("beta_sign", torch.full((self.width,), math.copysign(1.0, value)))

    @property
    def beta(self) -> Tensor:
        """The sharpness, (C,) or (1,)."""
        if self.beta_as == "raw":
            return cast(Tensor, self.raw_beta)
        return self.beta_sign * torch.exp(cast(Tensor, self.log_beta))

    def load_start(self, params: Mapping[str, Number]) -> None:
        """Write start values; log_beta and beta_sign serve both forms."""
        rest = dict(params)
        if self.beta_as == "raw" and "log_beta" in rest:
            logs, signs = rest.pop("log_beta"), rest.pop("beta_sign", 1.0)
            raw = (torch.tensor(signs, dtype=torch.float64) * torch.tensor(logs, dtype=torch.float64).exp()).tolist()
            rest["raw_beta"] = tuple(raw) if isinstance(raw, list) else raw
        super().load_start(rest)

    def adapt_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Accept beta as the original checkpoints store it, and the other of the two forms."""
        beta = state_dict.pop(prefix + "beta", None)
        if self.beta_as == "raw":
            if beta is None and prefix + "log_beta" in state_dict:
                beta = state_dict.pop(prefix + "beta_sign") * state_dict.pop(prefix + "log_beta").exp()
            if beta is not None:
                state_dict[prefix + "raw_beta"] = beta
            return
        beta = state_dict.pop(prefix + "raw_beta", beta)
        if beta is not None:
            tiny = torch.finfo(beta.dtype).tiny
            state_dict[prefix + "log_beta"] = beta.abs().clamp_min(tiny).log()
            state_dict[prefix + "beta_sign"] = beta.sign()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read modules that were pickled before there were two forms."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__.setdefault("beta_as", "log")


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
    if not known(source):
        return False
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
