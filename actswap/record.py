"""The record of a conversion: what a converted model remembers, so that it can be saved and reverted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import fx, nn

from actswap.plan import Plan

_RECORD = "_actswap_record"
_PRESERVED = "_user_preserved_attributes"  # what a GraphModule's meta lists there, its copies keep


@dataclass(frozen=True)
class Record:
    """What a converted model remembers: its plan, and the modules that stood at the paths (None: nothing)."""

    plan: Plan
    originals: tuple[tuple[str, nn.Module | None], ...]


def remember(model: nn.Module, plan: Plan, originals: dict[str, nn.Module | None]) -> None:
    """Keep the record on the model, outside its parameters and submodules; an earlier record is extended."""
    earlier = record_of(model)
    if earlier is not None:
        plan = dataclasses.replace(plan, before=earlier.plan)
        originals = {**originals, **dict(earlier.originals)}
    record = Record(plan, tuple(originals.items()))
    model.__dict__[_RECORD] = record
    if isinstance(model, fx.GraphModule):
        if "meta" not in vars(model):  # torchvision's extractors have none at first, but copy it
            model.meta = {}
        model.meta.setdefault(_PRESERVED, {})[_RECORD] = record


def record_of(model: nn.Module) -> Record | None:
    """Return the record of a converted model, None for any other."""
    found = model.__dict__.get(_RECORD)
    return found if isinstance(found, Record) else None


def plan_of(model: nn.Module) -> Plan | None:
    """Return the plan that a model was converted by, None for a model that was not."""
    record = record_of(model)
    return None if record is None else record.plan


def forget(model: nn.Module) -> None:
    """Drop the record of a model that is as it was before its conversion."""
    del model.__dict__[_RECORD]
    if isinstance(model, fx.GraphModule):
        model.meta.get(_PRESERVED, {}).pop(_RECORD, None)
