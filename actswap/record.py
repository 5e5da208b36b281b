"""The record of a conversion: what a converted model remembers, so that it can be saved and reverted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx, nn

from actswap.capture.graph_module import drop, preserve
from actswap.errors import UsageError
from actswap.plan import Plan

_RECORD, _TRAINED = "_actswap_record", "_actswap_trained"


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


def converted_in(model: nn.Module) -> dict[str, nn.Module]:
    """Return the converted networks in a model by name: the model itself, or those inside a wrapper or a trainer.

    What DDP, `torch.compile`, PEFT, Lightning and others put around a network leaves its record where it is.
    """
    if record_of(model) is not None:
        return {"": model}
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if record_of(module) is not None and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def the_converted(model: nn.Module, call: str) -> tuple[str, nn.Module]:
    """Return the converted network in a model and its name there.

    Args:
        model: a converted model, or one with a wrapper around it.
        call: the call that is refused otherwise: `revert` or `save`.

    Raises:
        UsageError: there is none, or there are several.
    """
    found = converted_in(model)
    more = ", ...)" if call == "save" else ")"
    if not found:
        raise UsageError(
            f"this {type(model).__name__} was not converted by actswap",
            why="neither it nor a module in it carries the record of a conversion",
            fix=f"actswap.{call}(actswap.convert(model, 'acon_c', inputs).model{more}",
        )
    if len(found) > 1:
        raise UsageError(
            f"this {type(model).__name__} holds {len(found)} converted networks: {', '.join(found)}",
            fix=f"name one of them: actswap.{call}(model.{next(iter(found))}{more}",
        )
    return next(iter(found.items()))


def plan_of(model: nn.Module) -> Plan | None:
    """Return the plan that a model was converted by, None for a model that was not.

    A wrapper (DDP, `torch.compile`, a LightningModule) around one converted network has the plan of that network.

    >>> import torch, actswap
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> actswap.plan_of(actswap.convert(model, "swish", torch.randn(8, 4), start="morph").model).target
    'swish'
    >>> actswap.plan_of(model) is None
    True
    """
    found = [record_of(network) for network in converted_in(model).values()]
    return found[0].plan if len(found) == 1 and found[0] is not None else None


def remember_trained(model: nn.Module, names: Iterable[str]) -> None:
    """Note on a model that these parameters were trained, besides those noted earlier."""
    model.__dict__[_TRAINED] = trained_in(model) | frozenset(names)


def trained_in(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that `tune` has trained in a model."""
    found = model.__dict__.get(_TRAINED)
    return found if isinstance(found, frozenset) else frozenset()


def forget(model: nn.Module) -> None:
    """Remove the record of a model that was brought back to its state before the conversion."""
    del model.__dict__[_RECORD]
    if isinstance(model, fx.GraphModule):
        drop(model, _RECORD)
