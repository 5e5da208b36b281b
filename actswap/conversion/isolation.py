"""Isolate the chosen calls and settle what that disturbs.

A call in its own module runs out of place. Where the network relied on the overwritten input, the outputs change; then:
1. a swapped in-place call is reached by an island instead, in which every later reader of the input is redirected;
2. what still disturbs the network is left as it was, with that as its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from actswap.capture.island import Traced
from actswap.checks.parity import compare
from actswap.checks.signal import Signal
from actswap.conversion.passes.isolate import Originals, isolate, path_of
from actswap.conversion.passes.revert import undo
from actswap.conversion.survey import Survey, island_of
from actswap.errors import CaptureError
from actswap.plan import Choice, Island, Plan, keys_of
from actswap.sites import Site, Start

_NOISE = 4  # times what two runs of the unchanged model differ by is no disturbance
_MOST = 0.05  # in half precision, and of a faint signal: more than that is no rounding
_REASSOCIATED = 250  # times a few roundings of the output
_DISTURBS = "as a module of its own it changes the network's output: its input is read through another name"


def settle(
    model: nn.Module,
    found: Survey,
    chosen: Sequence[Site],
    left: Sequence[tuple[Site, str]],
    target: str,
    options: Mapping[str, Any],
    expected: list[Tensor],
    signals: Sequence[Signal],
    probe: Callable[[Plan], list[Tensor]],
) -> tuple[Plan, Originals]:
    """Isolate the chosen sites of `model` in place.

    Args:
        model: the model to change.
        found: its survey.
        chosen: the sites to isolate.
        left: the sites that stay, with reasons.
        target: name of the target, for the plan.
        options: its options, for the plan.
        expected: outputs of the model on the example inputs.
        signals: how these outputs vary.
        probe: runs the isolated model on the example inputs.

    Returns:
        The plan, still without starts, and the modules that stood at its paths.
    """
    keys = keys_of(model)
    islands, traces = dict(found.islands), dict(found.traces)
    sites, stay = list(chosen), list(left)
    limit = _rounding(signals)
    for _ in range(4):
        plan = _plan(model, found, sites, stay, islands, target, options, keys)
        originals = isolate(model, plan, traces)
        if _error(expected, signals, plan, probe) <= limit:
            return plan, originals
        undo(model, plan, originals)
        # A detector amplifies the rounding by which a plain run differs from the observed one.
        own = _error(expected, signals, _plan(model, found, (), (), {}, "", {}, keys), probe)
        if limit < own * _NOISE < math.inf:
            limit = own * _NOISE
            continue
        bad = _disturbing(model, found, sites, islands, traces, keys, expected, signals, probe, limit)
        for site in bad:
            promoted = _promote(model, found, site, islands, traces) if site.how == "swap" and site.inplace else None
            if promoted is None:
                sites = [s for s in sites if s.name != site.name]
                stay.append((replace(site, how="left"), _DISTURBS))
            else:
                islands[site.owner], traces[site.owner] = promoted
                sites = [replace(s, how="island") if s.name == site.name else s for s in sites]
        if not bad:
            break
    raise CaptureError(
        f"{type(model).__name__} computes something else once its activation calls are modules of their own",
        fix="leave out the sites that depend on it: --skip",
    )


def _plan(
    model: nn.Module,
    found: Survey,
    sites: Sequence[Site],
    left: Sequence[tuple[Site, str]],
    islands: Mapping[str, Island],
    target: str,
    options: Mapping[str, Any],
    keys: str,
) -> Plan:
    names = {s.name for s in sites}
    choices = []
    for site in sites:
        shared = any(
            s.owner == site.owner and s.child and s.child == site.child and s.name not in names for s in found.sites
        )
        path = path_of(model, site.name, site.owner, site.child, site.how, shared)
        choices.append(Choice(site, target, Start("none"), path, options))
    owners = {s.owner for s in sites if s.how == "island"}
    needed = tuple(island for owner, island in islands.items() if owner in owners)
    return Plan(target, tuple(choices), tuple(left), needed, type(model).__name__, keys)


def _disturbing(
    model: nn.Module,
    found: Survey,
    sites: Sequence[Site],
    islands: Mapping[str, Island],
    traces: Mapping[str, Sequence[Traced]],
    keys: str,
    expected: list[Tensor],
    signals: Sequence[Signal],
    probe: Callable[[Plan], list[Tensor]],
    limit: float,
) -> list[Site]:
    """Bisect for the sites that cannot be isolated without changing the outputs.

    Where only several together do, one after the other is isolated too, and those with which it goes wrong are taken.
    """

    def fine(some: Sequence[Site]) -> bool:
        plan = _plan(model, found, some, (), islands, "", {}, keys)
        originals = isolate(model, plan, traces)
        good = _error(expected, signals, plan, probe) <= limit
        undo(model, plan, originals)
        return good

    def search(some: Sequence[Site]) -> list[Site]:
        if fine(some):
            return []
        if len(some) == 1:
            return list(some)
        half = len(some) // 2
        return search(some[:half]) + search(some[half:]) or together(some)

    def together(some: Sequence[Site]) -> list[Site]:
        kept: list[Site] = []
        bad: list[Site] = []
        for site in some:
            (kept if fine([*kept, site]) else bad).append(site)
        return bad

    return search(list(sites))


def _promote(
    model: nn.Module,
    found: Survey,
    site: Site,
    islands: Mapping[str, Island],
    traces: Mapping[str, Sequence[Traced]],
) -> tuple[Island, Sequence[Traced]] | None:
    if site.owner in islands:
        return islands[site.owner], traces.get(site.owner, ())
    try:
        return island_of(model, found.located[site.owner], found.tape)
    except CaptureError:
        return None


def _error(
    expected: list[Tensor], signals: Sequence[Signal], plan: Plan, probe: Callable[[Plan], list[Tensor]]
) -> float:
    try:
        return compare(expected, probe(plan), signals).rel
    except Exception:  # the user's code may fail in any way once its activations are modules
        return math.inf


def _rounding(signals: Sequence[Signal]) -> float:
    """What re-associating a formula may change at the output of a deep network, in the network's own precision."""
    return min(_REASSOCIATED * max((s.rounding for s in signals), default=0.0), _MOST)
