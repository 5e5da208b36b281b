"""Activation calls that are made in train mode only: auxiliary heads, branches behind `if self.training`.

They are sites like the others. One that is a module called once is replaced with the others; for the rest the owner's
forward would have to be rewritten without having been seen in eval mode, so they are listed and left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from actswap.capture.observe import observe
from actswap.capture.tape import Tape
from actswap.conversion.passes.surgery import module_at
from actswap.errors import CaptureError
from actswap.inputs import doubled
from actswap.recognize.locate import locate
from actswap.sites import Site

ONLY_IN_TRAINING = "runs only in training"


def observe_training(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tape | None:
    """Observe one forward pass in train mode, on a batch of two if one sample is too few.

    Args:
        model: any module; it is not changed.
        args: positional inputs.
        kwargs: keyword inputs.

    Returns:
        The tape; None if the model does not run in train mode on these inputs.
    """
    for inputs in ((args, dict(kwargs)), doubled(args, kwargs)):
        if inputs is not None:
            try:
                return observe(model, *inputs, training=True)
            except CaptureError:
                continue
    return None


def only_in_training(trained: Iterable[Site], known: Collection[Site]) -> list[Site]:
    """Return the sites of a run in train mode that are not among those of eval mode.

    Args:
        trained: the sites of the run in train mode.
        known: the sites of the run in eval mode.
    """
    names = {s.name for s in known}
    children = {(s.owner, s.child) for s in known if s.child}
    found = []
    for site, twin in counterparts(trained, known):
        if twin is None:
            if site.name in names:
                site = replace(site, name=f"{site.name.partition('@')[0]}@training")
            names.add(site.name)
            found.append(_reached(site, children))
    return found


def counterparts(trained: Iterable[Site], known: Iterable[Site]) -> list[tuple[Site, Site | None]]:
    """Pair every site of a run in train mode with the same one of eval mode, or None.

    The same owner calls the same thing: on the same line if there is one, else the next in order.
    """
    pool: dict[tuple[str, str, str], list[Site]] = defaultdict(list)
    for site in known:
        pool[_call(site)].append(site)
    pairs: dict[int, tuple[Site, Site | None]] = {}
    listed = list(trained)
    for same_line in (True, False):
        for at, site in enumerate(listed):
            left = pool[_call(site)]
            twin = next((s for s in left if not same_line or s.line == site.line), None)
            if pairs.get(at, (site, None))[1] is None:
                pairs[at] = site, twin
                if twin is not None:
                    left.remove(twin)
    return [pairs[at] for at in range(len(listed))]


def _call(site: Site) -> tuple[str, str, str]:
    return site.owner, site.child, site.source.kind


def _reached(site: Site, children: Collection[tuple[str, str]]) -> Site:
    if (site.owner, site.child) in children:
        through = f"{ONLY_IN_TRAINING}, through a module that also runs in eval mode"
        return replace(site, how="left", reason=through)
    if site.how == "left":
        return replace(site, reason=f"{ONLY_IN_TRAINING}; {site.reason}")
    if site.how == "island":
        return replace(site, how="left", reason=f"{ONLY_IN_TRAINING}: not the call of a module of its own")
    return replace(site, reason=site.reason or ONLY_IN_TRAINING)


def shared_in_training(model: nn.Module, trained: Iterable[Site]) -> set[tuple[str, str]]:
    """Return (owner, child) of the modules that more than one call reaches in train mode: they cannot be exchanged.

    Args:
        model: the model.
        trained: the sites of its run in train mode.
    """
    calls: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for site in trained:
        module = module_at(model, f"{site.owner}.{site.child}" if site.owner else site.child) if site.child else None
        if module is not None:
            calls[id(module)].append((site.owner, site.child))
    return {place for places in calls.values() if len(places) > 1 for place in places}


def runs_in_eval(site: Site) -> bool:
    """Return whether the site was seen in eval mode."""
    return not site.reason.startswith(ONLY_IN_TRAINING)


def sites_of(model: nn.Module, tape: Tape) -> list[Site]:
    """Return all sites of a tape in the order in which they first run."""
    found = [(at, s) for f in locate(model, tape) for at, s in zip(f.when, f.sites, strict=True) if s is not None]
    return [site for _, site in sorted(found, key=lambda entry: entry[0])]


def calls_replaced(trained: Iterable[Site], known: Collection[Site], replaced: Collection[str]) -> tuple[int, int]:
    """Count the activation calls of a run in train mode that a plan sends to targets: at least, and at most.

    A call on another line than in eval mode (in a branch behind `if self.training`) is reached by some ways of
    replacing and not by others.

    Args:
        trained: the sites of that run.
        known: all sites of the model.
        replaced: names of those that the plan replaces.
    """
    swapped = {(s.owner, s.child) for s in known if s.name in replaced and s.how == "swap"}
    least = most = 0
    for site, twin in counterparts(trained, known):
        surely = (site.owner, site.child) in swapped
        surely |= twin is not None and twin.name in replaced and twin.line == site.line
        least += site.calls if surely else 0
        most += site.calls if surely or (twin is not None and twin.name in replaced) else 0
    return least, most
