"""Learning-rate curves, and ramps of values inside activations: morph t, beta, temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from actswap.activations.base import Activation
from actswap.errors import UsageError
from actswap.train.config import Ramp


def rate_factor(curve: str, fraction: float, warmup: float) -> float:
    """Return the share of the largest learning rate at a fraction of the run.

    Args:
        curve: `one_cycle` (Smith 2018: half a cosine from 1/25 up to 1, then down to 0), `cosine`, `linear`,
            `constant`.
        fraction: steps done over all steps, 0 to 1.
        warmup: share of the run that the rise takes; the rise is linear except for `one_cycle`.
    """
    if fraction < warmup:
        rise = fraction / warmup
        if curve == "one_cycle":
            return 0.04 + 0.96 * (1 - math.cos(math.pi * rise)) / 2
        return 1.0 if curve == "constant" else max(rise, 1e-3)
    left = (fraction - warmup) / (1 - warmup)
    if curve == "linear":
        return 1 - left
    return 1.0 if curve == "constant" else (1 + math.cos(math.pi * left)) / 2


def _morph(module: nn.Module) -> Callable[[float], None] | None:
    blend = getattr(module, "t", None)
    if not isinstance(blend, torch.Tensor) or not (hasattr(module, "source") and hasattr(module, "target")):
        return None
    return lambda value: _fill(blend, value)


def _beta(module: nn.Module) -> Callable[[float], None] | None:
    if not isinstance(module, Activation):
        return None
    logarithm, plain = getattr(module, "log_beta", None), getattr(module, "beta", None)
    if isinstance(logarithm, nn.Parameter):
        return lambda value: _fill(logarithm, math.log(value))
    if isinstance(plain, nn.Parameter):
        return lambda value: _fill(plain, value)
    return None


def _temperature(module: nn.Module) -> Callable[[float], None] | None:
    if not isinstance(module, Activation):
        return None
    for name in ("tau", "temperature"):
        current = getattr(module, name, None)
        if isinstance(current, torch.Tensor):
            return lambda value, tensor=current: _fill(tensor, value)  # type: ignore[misc]
        if isinstance(current, float):
            return lambda value, name=name: setattr(module, name, value)  # type: ignore[misc]
    return None


@torch.no_grad()
def _fill(tensor: torch.Tensor, value: float) -> None:
    tensor.fill_(value)


_SETTERS = {"morph": _morph, "beta": _beta, "temperature": _temperature}


class Ramps:
    """The scheduled values of a network's activations.

    Args:
        model: the network.
        ramps: `morph`, `beta`, `temperature` -> ramp.

    Raises:
        UsageError: a ramp that no activation in the network answers to.
    """

    def __init__(self, model: nn.Module, ramps: Mapping[str, Ramp]) -> None:
        self._ramps: list[tuple[Ramp, list[Callable[[float], None]], bool]] = []
        for name, ramp in ramps.items():
            found = [setter for setter in map(_SETTERS[name], model.modules()) if setter is not None]
            if not found:
                raise UsageError(
                    f"schedule {name!r} moves nothing",
                    why="no activation in the network has it",
                    fix=f"drop schedules.{name}",
                )
            self._ramps.append((ramp, found, name == "beta"))

    def apply(self, fraction: float) -> None:
        """Write the values for a fraction of the run; beta, a trained parameter, is let go after its ramp."""
        for ramp, setters, trained in self._ramps:
            if trained and fraction > ramp.until:
                continue
            for setter in setters:
                setter(ramp.at(fraction))
