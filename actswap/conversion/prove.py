"""Prove that the surgery lost nothing, leave what it cannot be proved for, and judge the result.

The isolated network computes what the original computes, with a module at every chosen call. So it is held to rounding,
whatever the targets are; a fault shows here and can be traced to the sites that cause it. What the targets add is
measured at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from actswap.checks.census import Census, census
from actswap.checks.check import Check
from actswap.checks.gradients import NOT_FINITE, WAYS, Pass, Way, one_pass
from actswap.checks.parity import verify as first_difference
from actswap.checks.precision import AS_FLOAT32, OWN
from actswap.checks.proof import (
    Seen,
    Subject,
    absorbed,
    compare_functions,
    compare_start,
    forgive,
    gradient_noise,
    names_of,
    own_noise,
)
from actswap.checks.signal import Signal
from actswap.conversion.calibrate import watching
from actswap.conversion.outcome import Report
from actswap.conversion.passes.isolate import Originals, isolate
from actswap.conversion.passes.revert import undo
from actswap.conversion.passes.surgery import module_at
from actswap.conversion.survey import Survey
from actswap.conversion.training_only import calls_replaced, sites_of
from actswap.errors import VerificationError
from actswap.plan import Plan
from actswap.sites import Site

_FAR = 2  # times its width: a fitted range is left by more than that
_MOST_TRIES = 24  # groups of sites that are tried to find those at fault
TRAINING = "census in training"


def comparable(model: nn.Module, chosen: Sequence[Site], subject: Subject, trained: Pass | str) -> Pass | str:
    """Return the pass of the original that a converted model can be held against.

    RReLU draws its slopes in train mode and its target does not: then it is the pass in eval mode.

    Args:
        model: the original.
        chosen: the sites that are replaced.
        subject: what it is run on.
        trained: its pass in train mode.
    """
    if isinstance(trained, str) or not any(_draws(model, site) for site in chosen):
        return trained
    found = one_pass(model, subject.args, subject.kwargs, WAYS[-1])
    why = "RReLU draws its slopes in train mode, its target does not"
    return replace(found, why=why) if isinstance(found, Pass) else why


def _draws(model: nn.Module, site: Site) -> bool:
    path = f"{site.owner}.{site.child}" if site.owner else site.child
    return isinstance(module_at(model, path), nn.RReLU) if site.child else "rrelu" in site.name


@dataclass(frozen=True)
class Isolated:
    """An isolated model: its plan, what stood at its paths, and what was proved about it."""

    plan: Plan
    originals: Originals
    checks: tuple[Check, ...] = ()


def subject_of(
    model: nn.Module,
    found: Survey,
    chosen: Sequence[Site],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    signals: Sequence[Signal],
) -> Subject:
    """Say what the original and the isolated model are compared on."""
    places = [(s.owner, s.child, _values(s)) for s in chosen]
    owners = {s.owner for s in chosen if s.how == "island"}
    traced = tuple(o for o, island in found.islands.items() if o in owners and island.calls)
    skip = absorbed(model, places)
    return Subject(args, kwargs, signals, names_of(model) - skip, skip, traced)


def isolated(
    model: nn.Module,
    found: Survey,
    chosen: Sequence[Site],
    left: Sequence[tuple[Site, str]],
    settled: Callable[[Sequence[Site], Sequence[tuple[Site, str]]], tuple[Plan, Originals]],
    subject: Subject,
    seen: Seen | None,
) -> Isolated:
    """Isolate the chosen sites and prove it; leave those for which it cannot be proved.

    Args:
        model: changed in place.
        found: its survey.
        chosen: the sites to isolate.
        left: the sites that stay, with reasons.
        settled: isolates some sites.
        subject: what the proof is made on.
        seen: what the original did; without it nothing is proved.

    Raises:
        VerificationError: what is wrong goes with no site.
    """
    plan, originals = settled(chosen, left)
    if seen is None:
        return Isolated(plan, originals)
    checks = compare_functions(seen, model, subject, inside(plan))
    if _fine(checks):
        return Isolated(plan, originals, checks)
    undo(model, plan, originals)
    noise = own_noise(model, seen, subject)

    def proved(some: Plan) -> tuple[Check, ...]:
        standing = isolate(model, some, found.traces)
        try:
            return forgive(compare_functions(seen, model, subject, inside(some)), noise)
        finally:
            undo(model, some, standing)

    checks = forgive(checks, noise)
    if _fine(checks):
        plan, originals = settled(chosen, left)
        return Isolated(plan, originals, checks)
    guilty = _guilty(plan, proved)
    reasons = {site.name: reason for site, reason in guilty}
    rest = [s for s in chosen if s.name not in reasons]
    if not rest:
        raise _contradiction(checks, model)
    stay = [*left, *((replace(s, how="left"), reasons[s.name]) for s in chosen if s.name in reasons)]
    plan, originals = settled(rest, stay)
    checks = forgive(compare_functions(seen, model, subject, inside(plan)), noise)
    if not _fine(checks):
        undo(model, plan, originals)
        raise _contradiction(checks, model)
    return Isolated(plan, originals, checks)


def inside(plan: Plan) -> Callable[[str], bool]:
    """Return a function that is true for the names of modules that are replaced, or traced as part of a formula."""
    parts = [(c.site.owner, c.site.child) for c in plan.choices if c.site.child]
    parts += [(island.owner, child) for island in plan.islands for child in island.inline]
    names = {c.path for c in plan.choices} | {f"{owner}.{child}" if owner else child for owner, child in parts}
    return lambda name: any(name == n or name.startswith(f"{n}.") for n in names)


def final_checks(
    model: nn.Module, plan: Plan, found: Survey, subject: Subject, seen: Seen
) -> tuple[tuple[Check, ...], Census | None]:
    """Compare the gradients and the census in train mode of the converted model.

    Args:
        model: the converted model.
        plan: its plan.
        found: the survey of the original.
        subject: what both are run on.
        seen: what the original did.
    """
    if isinstance(seen.trained, str):
        start = compare_start(seen, seen.trained, subject, exact=False)
        return (start, Check(TRAINING, None, f"not proved: {seen.trained}")), None
    exact = all(c.start.kind in ("exact", "morph") for c in plan.choices)
    after = one_pass(model, subject.args, subject.kwargs, seen.trained.way, watch=True)
    start = compare_start(seen, after, subject, exact)
    far = _out_of_range(model, plan, subject, seen.trained.way) if after == NOT_FINITE else ""
    if far:
        start = replace(start, passed=None, said=f"not proved: {start.said}; {far}")
    if start.passed is False and not isinstance(after, str):
        (start,) = forgive([start], {start.name: gradient_noise(model, after, subject)})
    if isinstance(after, str) or after.tape is None or found.training is None:
        return (start, Check(TRAINING, None, f"not proved: it does not run in train mode: {seen.trained.why}")), None
    before, now = (_counted(sites) for sites in (found.training, sites_of(model, after.tape)))
    replaced = {c.site.name for c in plan.choices}
    least, most = calls_replaced(found.training, found.sites, replaced)
    arrived = census(before, now, most).replaced
    counts = census(before, now, min(max(arrived, least), most))
    said = f"{sum(before.values())} activation calls in train mode, {counts.replaced} of them replaced"
    if not counts.complete:
        said = f"the planned activation calls are not made in train mode: before {before}, after {now}"
    return (start, Check(TRAINING, counts.complete, said)), counts


def _out_of_range(model: nn.Module, plan: Plan, subject: Subject, way: Way) -> str:
    """Say which fitted target sees numbers far outside of its range in a pass; "" if none does.

    A batch of few samples, or statistics that were never updated, make such passes in train mode.
    """
    fitted = {c.path: c for c in plan.choices if c.histogram is not None and c.start.params}
    with watching(model, list(fitted)) as streams:
        one_pass(model, subject.args, subject.kwargs, way)
    for path, stream in streams.items():
        seen, known = stream.finish(), fitted[path].histogram
        if known is None or not stream.seen:
            continue
        margin = _FAR * (known.hi - known.lo)
        if seen.lo < known.lo - margin or seen.hi > known.hi + margin:
            here, there = (f"from {h.lo:.3g} to {h.hi:.3g}" for h in (seen, known))
            name = fitted[path].site.name
            return (
                f"on this batch {name} gets numbers {here}, and was fitted {there}: pass more samples, or calibration="
            )
    return ""


def judge(report: Report, original: nn.Module | None, model: nn.Module, subject: Subject) -> None:
    """Raise if a report is not ok.

    Raises:
        VerificationError: what failed, with what would work.
    """
    if report.ok:
        return
    parity, counts = report.parity, report.census
    if counts is not None and not counts.complete:
        raise VerificationError(
            "the converted model does not make the planned activation calls",
            why=f"before: {dict(counts.before)}, after: {dict(counts.after)}, {counts.replaced} replaced, "
            f"{counts.left} left on purpose",
            fix="convert fewer sites with only= or skip=, or start from the original model again",
        )
    if report.proof is not None and not report.proof.ok:
        raise _contradiction(report.proof.checks, model)
    assert parity is not None
    where = ""
    if original is not None:
        found = first_difference(original, model, subject.args, subject.kwargs, report.tolerance)
        where = found.first_divergent_site or ""
    raise VerificationError(
        f"the converted model is off by {parity.rel:.2e}, more than the tolerance {report.tolerance:g}",
        where=where,
        why="the starts do not keep the network's function closely enough",
        fix="--start morph is exact at t=0; or allow more: --tolerance",
    )


def _contradiction(checks: Sequence[Check], model: nn.Module) -> VerificationError:
    failed = [check for check in checks if check.passed is False]
    if [check.name for check in failed] == [OWN]:
        return VerificationError(
            f"the converted {type(model).__name__} keeps the function in float32, and loses it in its own precision",
            why=failed[0].said,
            fix=AS_FLOAT32,
            add="--dtype float32",
        )
    return VerificationError(
        f"the converted {type(model).__name__} is another function than the original",
        where=", ".join(dict.fromkeys(name for check in failed for name in check.names[:4])),
        why="; ".join(f"{check.name}: {check.said}" for check in failed),
        fix="leave out the sites that cause it: --skip; actswap scan MODEL names them",
    )


def _fine(checks: Iterable[Check]) -> bool:
    return all(check.passed is not False for check in checks)


def _guilty(plan: Plan, proved: Callable[[Plan], tuple[Check, ...]]) -> list[tuple[Site, str]]:
    """Bisect for the sites at fault, with the reason; all calls of one rewritten forward go together."""
    groups: dict[str, list[Site]] = {}
    for site in (c.site for c in plan.choices):
        groups.setdefault(f"island {site.owner}" if site.how == "island" else site.name, []).append(site)
    found: list[tuple[Site, str]] = []
    tries = 0

    def search(some: Sequence[str], known: bool = False) -> None:
        nonlocal tries
        sites = [site for key in some for site in groups[key]]
        names = {site.name for site in sites}
        owners = {site.owner for site in sites}
        part = replace(
            plan,
            choices=tuple(c for c in plan.choices if c.site.name in names),
            islands=tuple(i for i in plan.islands if i.owner in owners),
        )
        tries += 1
        failed = [] if not some else [c for c in proved(part) if c.passed is False]
        if not failed:
            return
        if len(some) == 1 or tries > _MOST_TRIES:
            reason = "replaced, the network is another function: " + "; ".join(f"{c.name}: {c.said}" for c in failed)
            found.extend((site, reason) for site in sites)
            return
        half = len(some) // 2
        search(some[:half])
        search(some[half:])

    # Exchanged modules are rarely at fault.
    search([key for key in groups if not key.startswith("island ")])
    search([key for key in groups if key.startswith("island ")])
    return found


def _counted(sites: Iterable[Site]) -> dict[str, int]:
    calls: Counter[str] = Counter()
    for site in sites:
        calls[site.source.kind] += site.calls
    return dict(calls)


def _values(site: Site) -> tuple[tuple[float, ...], ...]:
    return tuple(v if isinstance(v, tuple) else (v,) for _, v in site.source.params)
