"""Apply a plan: a pure function of (model, plan)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import nn

from actswap.activations.plain import PLAIN
from actswap.capture.duplicate import duplicate
from actswap.capture.island import Traced
from actswap.errors import ActswapError, UsageError
from actswap.conversion.passes.isolate import bypass_kernels, isolate_island, isolate_swap
from actswap.conversion.passes.replace import replace
from actswap.conversion.passes.revert import remember, undo
from actswap.plan import Island, Plan, keys_of

Originals = dict[str, nn.Module | None]


def apply_plan(model: nn.Module, plan: Plan, inplace: bool = False) -> nn.Module:
    """Convert another copy of the model that a plan was made for; nothing is run.

    Args:
        model: a model with the same modules, parameter names and shapes as the one the plan was made for.
        plan: the plan.
        inplace: change `model` itself instead of a copy.

    Returns:
        The converted model, each target at its planned start.

    Raises:
        UsageError: the model does not have the plan's parameters.
        CaptureError: the forward of an island has changed since.
    """
    work = model if inplace else duplicate(model)
    if plan.before is not None:
        apply_plan(work, plan.before, inplace=True)
    elif plan.keys != keys_of(work):
        raise UsageError(
            f"this plan was made for another model than this {type(model).__name__}",
            why=f"it was made for a {plan.model} whose parameter names and shapes are different",
            fix="build the model exactly as it was built when the plan was made, without converting it first",
        )
    unknown = [c.site.source.kind for c in plan.choices if c.site.source.kind not in PLAIN]
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
            why=f"{type(error).__name__}: {error}",
            fix="make the plan again from this model: actswap convert MODEL --to TARGET",
        ) from error
    remember(work, plan, originals)
    return work


def isolate(model: nn.Module, plan: Plan, traces: Mapping[str, Sequence[Traced]] | None = None) -> Originals:
    """Run the isolate pass for all choices; return what stood at their paths before.

    Args:
        model: changed in place.
        plan: its choices and islands.
        traces: the islands of this model by owner, as far as they have been traced.

    Raises:
        CaptureError: an island cannot be traced. The model is then as it was.
    """
    originals: Originals = {}
    done: list[Island] = []
    bypass_kernels(model, plan)
    try:
        for island in plan.islands:
            chosen = [c for c in plan.choices if c.site.owner == island.owner and c.site.how == "island"]
            originals.update({c.path: _at(model, c.path) for c in chosen})
            isolate_island(model, island, chosen, (traces or {}).get(island.owner))
            done.append(island)
        for choice in plan.choices:
            if choice.site.how == "swap":
                originals[choice.path] = _at(model, choice.path)
                isolate_swap(model, choice)
    except Exception:
        undo(model, dataclasses.replace(plan, islands=tuple(done)), originals)
        raise
    return originals


def path_of(model: nn.Module, site_name: str, owner: str, child: str, how: str, shared: bool) -> str:
    """Return where the module of a site will stand.

    A swapped child stays where it is. In an island the module takes the site's own name; where that would overwrite
    something that is still used, `@0` is added.
    """
    below = f"{owner}." if owner else ""
    if how == "swap":
        return below + child if _at(model, below + child) is not None else child
    local = site_name.removeprefix(below)
    stands = model.get_submodule(owner)
    for part in local.split(".")[:-1]:
        stands = getattr(stands, part)
    taken = hasattr(stands, local.rpartition(".")[2])
    if taken and (shared or child != local):
        local += "@0"
    return below + local


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
