"""The record of a conversion: what a converted model remembers, so that it can be saved and reverted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import fx, nn

from actswap.capture.graph_module import drop, preserve
from actswap.plan import Plan

_RECORD = "_actswap_record"


@dataclass(frozen=True)
class Record:
    """What a converted model remembers: its plan, and the module that stood at each path (None if there was none)."""

    plan: Plan
    originals: tuple[tuple[str, nn.Module | None], ...]


def remember(model: nn.Module, plan: Plan, originals: dict[str, nn.Module | None]) -> None:
    """Store a record on the model, outside its parameters and submodules. It extends an earlier record."""
    earlier = record_of(model)
    if earlier is not None:
        plan = dataclasses.replace(plan, before=earlier.plan)
        originals = {**originals, **dict(earlier.originals)}
    model.__dict__[_RECORD] = Record(plan, tuple(originals.items()))
    if isinstance(model, fx.GraphModule):
        preserve(model, _RECORD)


def record_of(model: nn.Module) -> Record | None:
    """Return the record of a converted model, None for any other."""
    found = model.__dict__.get(_RECORD)
    return found if isinstance(found, Record) else None


def plan_of(model: nn.Module) -> Plan | None:
    """Return the plan that a model was converted by, None for a model that was not.

    >>> import torch, actswap
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> actswap.plan_of(actswap.convert(model, "swish", torch.randn(8, 4), start="morph").model).target
    'swish'
    >>> actswap.plan_of(model) is None
    True
    """
    record = record_of(model)
    return None if record is None else record.plan


def forget(model: nn.Module) -> None:
    """Remove the record of a model that was brought back to its state before the conversion."""
    del model.__dict__[_RECORD]
    if isinstance(model, fx.GraphModule):
        drop(model, _RECORD)
