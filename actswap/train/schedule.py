"""Learning-rate curves, and ramps of values inside activations: morph t, beta, temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from actswap.errors import UsageError
from actswap.train.config import Ramp


def rate_factor(curve: str, fraction: float, warmup: float) -> float:
    """Return the share of the largest learning rate at a fraction of the run.

    Args:
        curve: `one_cycle` (Smith 2018: half a cosine from 1/25 up to 1, then down to 0), `cosine`, `linear`,
            `constant`.
        fraction: steps done over all steps, 0 to 1.
        warmup: share of the run that the rise takes; the rise is linear except for `one_cycle`.

    Returns:
        A factor from 0 to 1.

    Example:
        >>> rate_factor("linear", 0.5, warmup=0.0), rate_factor("constant", 0.1, warmup=0.3)
        (0.5, 1.0)
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


def _setters(model: nn.Module, name: str) -> list[Callable[[float], None]]:
    """Return a setter for each value that a ramp moves: a parameter for beta, else the attribute a module anneals."""
    if name == "beta":
        kinds = (("log_beta", _logarithm_setter), ("raw_beta", _value_setter))
        named = ((getattr(module, name, None), setter) for module in model.modules() for name, setter in kinds)
        return [setter(p) for p, setter in named if isinstance(p, nn.Parameter)]
    attribute = {"morph": "t", "temperature": "tau"}[name]
    found = [module for module in model.modules() if getattr(module, "annealed", None) == attribute]
    return [_attribute_setter(module, attribute) for module in found]


def _logarithm_setter(parameter: nn.Parameter) -> Callable[[float], None]:
    def set_beta(value: float) -> None:
        with torch.no_grad():
            parameter.fill_(math.log(value))

    return set_beta


def _value_setter(parameter: nn.Parameter) -> Callable[[float], None]:
    def set_beta(value: float) -> None:
        with torch.no_grad():
            parameter.fill_(value)

    return set_beta


def _attribute_setter(module: nn.Module, attribute: str) -> Callable[[float], None]:
    return lambda value: setattr(module, attribute, value)


class Ramps:
    """The scheduled values of a network's activations.

    Args:
        model: the network.
        ramps: `morph`, `beta`, `temperature` -> ramp.

    Raises:
        UsageError: no activation in the network has a value that a ramp moves.
    """

    def __init__(self, model: nn.Module, ramps: Mapping[str, Ramp]) -> None:
        self._ramps: list[tuple[Ramp, list[Callable[[float], None]], bool]] = []
        for name, ramp in ramps.items():
            found = _setters(model, name)
            if not found:
                raise UsageError(
                    f"schedule {name!r} moves nothing",
                    why="no activation in the network has it",
                    fix=f"drop schedules.{name}",
                )
            self._ramps.append((ramp, found, name == "beta"))

    def apply(self, fraction: float) -> None:
        """Write the values for a fraction of the run; beta is a trained parameter and trains freely after its ramp."""
        for ramp, setters, trained in self._ramps:
            if trained and fraction > ramp.until:
                continue
            for setter in setters:
                setter(ramp.at(fraction))
