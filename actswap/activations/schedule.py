"""Schedules: a number as a function of the training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from actswap.errors import UsageError


@dataclass(frozen=True)
class LinearSchedule:
    """A straight line from `first` to `last` over `steps`, constant before and after.

    Attributes:
        first: value up to step 0.
        last: value from step `steps` on.
        steps: length of the line, positive.

    >>> rise = LinearSchedule(first=0.0, last=1.0, steps=10)
    >>> [rise(step) for step in (-1, 0, 5, 10, 99)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """

    first: float
    last: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"LinearSchedule(steps={self.steps})", why="a schedule needs at least one step")

    def __call__(self, step: int) -> float:
        """The value at a step."""
        share = min(max(step / self.steps, 0.0), 1.0)
        return self.first + (self.last - self.first) * share if share < 1.0 else self.last


def temperature_schedule(steps: int) -> LinearSchedule:
    """The temperature of DY-ReLU C: high at first, so that the attention is not sparse too early.

    >>> [temperature_schedule(100)(step) for step in (0, 50, 100)]
    [10.0, 5.5, 1.0]
    """
    return LinearSchedule(10.0, 1.0, steps)


def morph_schedule(steps: int) -> LinearSchedule:
    """The share of the target in a morph.

    >>> [morph_schedule(100)(step) for step in (0, 25, 100)]
    [0.0, 0.25, 1.0]
    """
    return LinearSchedule(0.0, 1.0, steps)


def anneal(model: nn.Module, attribute: str, schedule: Callable[[int], float], step: int) -> int:
    """Set `attribute` of every module that has it to the schedule's value.

    Args:
        model: the model; its modules are searched.
        attribute: `tau` (DY-ReLU C) or `t` (morphs).
        schedule: value by step.
        step: the training step.

    Returns:
        The number of modules that were set.

    >>> from actswap.activations.dy_relu_c import DyReLUC
    >>> model = nn.Sequential(nn.Linear(4, 8), DyReLUC(8))
    >>> anneal(model, "tau", temperature_schedule(100), step=100), model[1].tau
    (1, 1.0)
    """
    found = [module for module in model.modules() if getattr(module, "annealed", None) == attribute]
    for module in found:
        setattr(module, attribute, schedule(step))
    return len(found)
