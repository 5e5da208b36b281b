"""Apply a plan: a pure function of (model, plan)."""

from __future__ import annotations

from torch import nn

from actswap.activations.plain import known
from actswap.capture.duplicate import duplicate
from actswap.capture.wrappers import network_in, refuse_sharded, renew
from actswap.conversion.passes.isolate import Originals, isolate
from actswap.conversion.passes.replace import replace
from actswap.conversion.passes.revert import undo
from actswap.errors import ActswapError, UsageError, first_line
from actswap.plan import Plan, keys_of
from actswap.recognize.dynamic import MODULES
from actswap.record import remember


def apply_plan(model: nn.Module, plan: Plan, inplace: bool = False) -> nn.Module:
    """Convert another copy of the model that a plan was made for, without running it.

    Args:
        model: a model with the same modules, parameter names and shapes as the one the plan was made for.
        plan: the plan.
        inplace: change `model` itself instead of a copy.

    Returns:
        The converted model, each target at its planned start; wrappers around the network stay around it.

    Raises:
        UsageError: the model does not have the plan's parameters, or is set up for distributed training.
        CaptureError: the forward of an island has changed since.

    >>> import torch, actswap
    >>> build = lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.SiLU())
    >>> plan = actswap.convert(build(), "acon_c", torch.randn(8, 4)).plan
    >>> type(actswap.apply_plan(build(), plan)[1]).__name__
    'AconC'
    """
    refuse_sharded(network_in(model), "load")
    whole = model if inplace else duplicate(model)
    work = network_in(whole)
    if plan.before is not None:
        apply_plan(work, plan.before, inplace=True)
    elif plan.keys != keys_of(work):
        raise UsageError(
            f"this plan was made for another model than this {type(model).__name__}",
            why=f"it was made for a {plan.model} whose parameter names and shapes are different",
            fix="build the model exactly as it was built when the plan was made, without converting it first",
        )
    sources = [c.site.source for c in plan.choices]
    unknown = [source.kind for source in sources if not known(source) and source.kind not in MODULES]
    if unknown:
        raise UsageError(f"this plan names an activation that actswap does not know: {unknown[0]}")
    originals: Originals = {}
    try:
        originals = isolate(work, plan)
        for choice in plan.choices:
            replace(work, choice)
    except Exception as error:
        if originals:
            undo(work, plan, originals)
        if isinstance(error, ActswapError):
            raise
        raise UsageError(
            f"this plan does not fit this {type(model).__name__}",
            why=first_line(error),
            fix="make the plan again from this model: actswap convert MODEL --to TARGET",
        ) from error
    remember(work, plan, originals)
    renew(whole)
    return whole
