"""Isolate the chosen calls, and repair or leave the ones that change the network's output.

A call in a module of its own runs out of place. If the network relied on the overwritten input, the outputs change:
1. A swapped in-place call is then reached through the owner's source, which assigns the result to the variable that
   held the input.
2. If that fails too and the owner's forward can be traced without loss, an island reaches the call. In an island,
   every later reader of the input reads the result.
3. A call that still changes the output is left as it was. The report gives this as the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from actswap.capture.island import Traced
from actswap.capture.wrappers import refuse_sharded
from actswap.checks.parity import compare
from actswap.checks.signal import Signal
from actswap.conversion.passes.isolate import Originals, isolate, path_of
from actswap.conversion.passes.revert import undo
from actswap.conversion.rules import Rule
from actswap.conversion.survey import Survey, island_of, rewrite_of
from actswap.errors import CaptureError, first_line
from actswap.plan import Choice, Island, Plan, keys_of
from actswap.sites import Site, Start

_NOISE_FACTOR = 4  # ignore deviations below 4x the run-to-run noise
_LARGEST_ROUNDING = 0.05  # a larger deviation is no rounding, whatever the precision and however faint the signal
_REASSOCIATED = 250  # times a few roundings of the output: what another order of operations may change
_ROUNDS = 8  # a site takes at most three: swap, source, island
_DISTURBS = "as a module of its own it changes the network's output: its input is read through another name"


@dataclass
class _Isolation:
    """The model that is being isolated, and how each owner is reached so far.

    Attributes:
        model: changed in place.
        found: its survey.
        target: what was asked for, in words.
        rules: the target of each site, by name.
        keys: digest of the model's parameters before anything was changed.
        expected: outputs of the model on the example inputs.
        signals: how these outputs vary.
        probe: runs the isolated model on the example inputs.
        islands, traces: by owner.
        failure: how the model last failed to run, "" if it did run.
    """

    model: nn.Module
    found: Survey
    target: str
    rules: Mapping[str, Rule]
    keys: str
    expected: list[Tensor]
    signals: Sequence[Signal]
    probe: Callable[[Plan], list[Tensor]]
    islands: dict[str, Island]
    traces: dict[str, Sequence[Traced]]
    failure: str = ""

    def plan(self, sites: Sequence[Site], left: Sequence[tuple[Site, str]] = ()) -> Plan:
        """Return the plan that isolates these sites."""
        names = {s.name for s in sites}
        choices = []
        for site in sites:
            shared = any(
                s.owner == site.owner and s.child and s.child == site.child and s.name not in names
                for s in self.found.sites
            )
            path = path_of(self.model, site.name, site.owner, site.child, site.how, shared)
            rule = self.rules[site.name]
            choices.append(Choice(site, rule.spec.name, Start("none"), path, rule.options))
        owners = {s.owner for s in sites if s.how == "island"}
        needed = tuple(island for owner, island in self.islands.items() if owner in owners)
        return Plan(self.target, tuple(choices), tuple(left), needed, type(self.model).__name__, self.keys)

    def error(self, plan: Plan) -> float:
        """Return the relative output error of the model in its present state; infinite if it does not run."""
        try:
            self.failure = ""
            return compare(self.expected, self.probe(plan), self.signals).rel
        except Exception as error:  # the user's code may fail in any way once its activations are modules
            self.failure = first_line(error)
            return math.inf

    def fine(self, sites: Sequence[Site], limit: float) -> bool:
        """Return True if the outputs stay within the limit when these sites are isolated together."""
        plan = self.plan(sites)
        originals = isolate(self.model, plan, self.traces)
        good = self.error(plan) <= limit
        undo(self.model, plan, originals)
        return good

    def disturbing(self, sites: Sequence[Site], limit: float) -> list[Site]:
        """Bisect for the sites that cannot be isolated without changing the outputs.

        If the outputs change only when several sites are isolated together, the sites are added one by one. Each site
        that makes the outputs change is returned, and left out from then on.

        Raises:
            CaptureError: the outputs are others although nothing is isolated.
        """

        def search(some: Sequence[Site]) -> list[Site]:
            if self.fine(some, limit):
                return []
            if not some:
                raise CaptureError(
                    f"{type(self.model).__name__} gives other outputs than when it was scanned",
                    why="no activation is replaced yet, so the inputs, the weights or the mode are others",
                    fix="scan again, on the inputs that are given to convert",
                )
            if len(some) == 1:
                return list(some)
            half = len(some) // 2
            return search(some[:half]) + search(some[half:]) or together(some)

        def together(some: Sequence[Site]) -> list[Site]:
            kept: list[Site] = []
            bad: list[Site] = []
            for site in some:
                (kept if self.fine([*kept, site], limit) else bad).append(site)
            return bad

        return search(list(sites))

    def promote(self, site: Site) -> bool:
        """Find the next way to reach the owner of a site that changes the outputs; return False if there is none."""
        located = self.found.located[site.owner]
        standing = self.islands.get(site.owner)
        if site.how == "swap":
            if not site.inplace:
                return False
            if standing is not None:
                rewrites = standing.rewrites
                if not rewrites or any(site.ordinal in r.ordinals for r in rewrites):
                    return True
            else:
                try:
                    island, missed = rewrite_of(self.model, located)
                except CaptureError:
                    pass
                else:
                    if site.ordinal not in missed:
                        self.islands[site.owner] = island
                        return True
        elif standing is None or not standing.rewrites:
            return False
        try:
            self.islands[site.owner], self.traces[site.owner] = island_of(self.model, located, self.found.tape)
        except CaptureError:
            return False
        return True


def settle(
    model: nn.Module,
    found: Survey,
    chosen: Sequence[Site],
    left: Sequence[tuple[Site, str]],
    target: str,
    rules: Mapping[str, Rule],
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
        target: what was asked for, for the plan.
        rules: the target of each site, by name.
        expected: outputs of the model on the example inputs.
        signals: how these outputs vary.
        probe: runs the isolated model on the example inputs.

    Returns:
        The plan, still without starts, and the modules that stood at its paths.

    Raises:
        UsageError: the model is set up for distributed training.
        CaptureError: the isolated calls change the outputs, and no single one could be blamed.
    """
    refuse_sharded(model)
    islands, traces = dict(found.islands), dict(found.traces)
    work = _Isolation(model, found, target, rules, keys_of(model), expected, signals, probe, islands, traces)
    sites, stay = list(chosen), list(left)
    limit = _rounding(signals)
    for _ in range(_ROUNDS):
        plan = work.plan(sites, stay)
        originals = isolate(model, plan, work.traces)
        if work.error(plan) <= limit:
            return plan, originals
        undo(model, plan, originals)
        # A plain run differs from the observed one by rounding, and a detector amplifies that.
        own = work.error(work.plan(()))
        if limit < own * _NOISE_FACTOR < math.inf:
            limit = own * _NOISE_FACTOR
            continue
        bad = work.disturbing(sites, limit)
        for site in bad:
            if work.promote(site):
                sites = [replace(s, how="island") if s.name == site.name else s for s in sites]
            else:
                work.fine([site], limit)
                reason = (
                    f"as a module of its own it makes the forward fail: {work.failure}" if work.failure else _DISTURBS
                )
                sites = [s for s in sites if s.name != site.name]
                stay.append((replace(site, how="left"), reason))
        if not bad:
            break
    raise CaptureError(
        f"{type(model).__name__} computes something else once its activation calls are modules of their own",
        fix="leave out the sites that depend on it: --skip",
    )


def _rounding(signals: Sequence[Signal]) -> float:
    """Return the output error that another order of the same operations may cause, in the network's precision."""
    return min(_REASSOCIATED * max((s.rounding for s in signals), default=0.0), _LARGEST_ROUNDING)
