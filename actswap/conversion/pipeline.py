"""Convert a pretrained model: find, choose, start, prove."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actswap import activations
from actswap.activations.base import Spec
from actswap.activations.bounded import split
from actswap.capture.duplicate import duplicate
from actswap.capture.observe import observe
from actswap.checks.census import Census, census, count
from actswap.checks.parity import Parity, compare, run, worst
from actswap.checks.parity import verify as first_difference
from actswap.checks.signal import few, more_runs, signals_of
from actswap.conversion.calibrate import calibrate, watching
from actswap.conversion.choose_starts import choose_starts
from actswap.conversion.isolation import settle
from actswap.conversion.passes.revert import undo
from actswap.conversion.survey import Sites, Survey, survey
from actswap.errors import UsageError, VerificationError
from actswap.fit.histogram import Histogram
from actswap.inputs import as_inputs, call_of
from actswap.plan import Choice, Plan
from actswap.recognize.locate import locate
from actswap.record import remember
from actswap.select import Selectors, select
from actswap.sites import STARTS, Progress, Site

_MOST_ROUNDING = 0.05  # of the signal: a start that changes more than its rounding is no start, whatever the precision
_PROBES = 4  # calibration batches on which the whole-network error is measured, beside the example inputs


@dataclass(frozen=True)
class Replaced:
    """One replaced site: what it became, how that starts, and its bound and error."""

    site: Site
    target: str
    start: str
    beta: float | None
    bound: float | None
    error: float | None
    note: str = ""


@dataclass(frozen=True)
class Left:
    """One site that was left, and why."""

    site: Site
    reason: str


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        target: the target asked for.
        replaced: the replaced sites, in the order in which they run.
        left: the others, each with its reason.
        parity: outputs of the original and of the converted model on the example inputs; None without `verify`, and on
            the meta device, where there are no values.
        census: activation calls before and after; None without `verify`.
        tolerance: the output error that was allowed, relative to how much the output varies.
        seconds: time of each step.
        peak_bytes: the most memory that the process has had resident so far; 0 where the system does not tell.
    """

    target: str
    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    parity: Parity | None
    census: Census | None
    tolerance: float
    seconds: Mapping[str, float]
    peak_bytes: int = 0

    @property
    def preserves(self) -> bool:
        """True where every start promises to keep the function of the network."""
        return all(r.start != "none" for r in self.replaced)

    @property
    def ok(self) -> bool:
        """True where the checks passed: all calls accounted for, and the outputs within tolerance."""
        counted = self.census is None or self.census.complete
        return counted and (self.parity is None or not self.preserves or self.parity.rel <= self._allowed)

    @property
    def _allowed(self) -> float:
        """What is exact may be off by its rounding, which is large where an output hardly varies."""
        exact = self.parity is not None and all(r.start in ("exact", "morph") for r in self.replaced)
        return max(self.tolerance, self.parity.rounding) if exact and self.parity is not None else self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "target": self.target,
            "ok": self.ok,
            "replaced": [{**vars(r), "site": r.site.to_dict()} for r in self.replaced],
            "left": [{"site": e.site.to_dict(), "reason": e.reason} for e in self.left],
            "parity": None if self.parity is None else self.parity.to_dict(),
            "census": None if self.census is None else self.census.to_dict(),
            "tolerance": self.tolerance,
            "seconds": dict(self.seconds),
            "peak_bytes": self.peak_bytes,
        }


@dataclass(frozen=True)
class Conversion:
    """The converted model, the plan that made it, and the report."""

    model: nn.Module
    plan: Plan
    report: Report


@torch.inference_mode(False)
def convert(
    model: nn.Module,
    target: str,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    only: Selectors = None,
    skip: Selectors = None,
    start: str = "auto",
    tolerance: float = 1e-3,
    calibration: Iterable[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    inplace: bool = False,
    verify: bool = True,
    scanned: Sites | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Replace activations of a pretrained model by trainable ones that start where it is.

    Args:
        model: any module; not changed unless `inplace`.
        target: name of the activation, see `actswap.list_activations()`.
        example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments that the model accepts.
        example_kwargs: keyword arguments.
        only: selectors of the sites to replace; default all that are no gates.
        skip: selectors of sites to leave.
        start: `auto`, or the start that every site must have: `exact`, `limit`, `fit`, `morph`, `none`.
        tolerance: error of the network's output that the starts may cause, relative to how much the output varies; at
            least four roundings of the output, below which nothing can be told apart.
        calibration: batches of real inputs, for fits and for the search of beta; default the example inputs.
        options: options of the target, e.g. `{"space": "layer"}`.
        inplace: convert `model` itself, without a second copy of its weights.
        verify: compare outputs and count calls, before and after.
        scanned: what `scan` returned for this model on these inputs; spares observing it again.
        progress: called with (done, total, text) during long steps.

    Returns:
        The converted model, the plan, the report.

    Raises:
        UsageError: unknown target or start, or nothing to replace.
        SelectionError: a selector matches nothing.
        CaptureError: the model does not run on the inputs.
        StartError: the start asked for does not exist at some site.
        VerificationError: the converted model fails its checks.
    """
    clock = _Clock()
    spec = activations.get(target)
    target = spec.name
    if start not in STARTS:
        raise UsageError(f"unknown start {start!r}", fix=f"start must be one of {', '.join(STARTS)}")
    if not tolerance > 0:
        raise UsageError(f"tolerance={tolerance}", why="it must be positive", fix="tolerance=1e-3")
    spec.check_options(options or {})
    args, kwargs = as_inputs(example_inputs, example_kwargs)
    work = model if inplace else duplicate(model)
    found = _surveyed(scanned, model) if scanned is not None else None
    if found is None or not (inplace or found.portable):
        found = survey(work, args, kwargs)
    chosen, left = _choose(found, spec, only, skip, type(model).__name__)
    clock.lap("scan")
    counted = count(found.located.values())
    probes = [(args, kwargs)]
    if calibration is not None:
        calibration = iter(calibration)
        ahead = list(itertools.islice(calibration, _PROBES))
        probes += [call_of(batch) for batch in ahead]
        calibration = itertools.chain(ahead, calibration)
    references = [list(found.tape.results), *(run(work, *probe) for probe in probes[1:])]
    measurable = not any(t.is_meta for t in references[0])
    others = more_runs(lambda *call: run(work, *call), args, kwargs, references[0])
    signals = signals_of([*references, *(outputs for _, outputs in others)])
    if few(references[0]):  # one number may be right by chance
        probes += [call for call, _ in others]
        references += [outputs for _, outputs in others]
    rounding = max((s.rounding for s in signals), default=0.0)
    tolerance = max(tolerance, min(rounding, _MOST_ROUNDING))
    histograms: dict[str, Histogram] = {}

    def probe(isolated: Plan) -> list[Tensor]:
        """Run the isolated model; what it is calibrated on is seen in the same run where that is all there is."""
        statistics = calibration is None and measurable and _needs_statistics(spec, isolated.choices, start)
        with watching(work, [c.path for c in isolated.choices] if statistics else ()) as streams:
            outputs = run(work, args, kwargs)
        histograms.update({path: stream.finish() for path, stream in streams.items()})
        return outputs

    plan, originals = settle(work, found, chosen, left, target, options or {}, references[0], signals, probe)
    clock.lap("isolate")
    try:
        if calibration is not None and measurable and _needs_statistics(spec, plan.choices, start):
            histograms = calibrate(work, [c.path for c in plan.choices], calibration, progress)
            clock.lap("calibrate")

        def error() -> float:
            return max(compare(ref, run(work, *p), signals).rel for ref, p in zip(references, probes, strict=True))

        plan = choose_starts(work, plan, spec, start, tolerance, histograms, error if measurable else None, progress)
        clock.lap("start")
        parity = counts = None
        if verify:
            again = observe(work, args, kwargs)
            results = [list(again.results), *(run(work, *probe) for probe in probes[1:])]
            if measurable:
                parity = worst(compare(*pair, signals) for pair in zip(references, results, strict=True))
            counts = census(counted, count(locate(work, again)), sum(c.site.calls for c in plan.choices))
            clock.lap("verify")
        report = Report(target, _replaced(plan), _left(plan), parity, counts, tolerance, clock.laps, _peak())
        if not report.ok:
            _fail(report, None if inplace else model, work, args, kwargs)
    except BaseException:
        if inplace:
            undo(work, plan, originals)
        raise
    remember(work, plan, originals)
    return Conversion(work, plan, report)


def _surveyed(scanned: Sites, model: nn.Module) -> Survey:
    if scanned.survey.model is not model:
        raise UsageError(
            f"scanned= is of another {type(scanned.survey.model).__name__}",
            fix="convert(model, target, x, scanned=scan(model, x))",
        )
    return scanned.survey


def _choose(
    found: Survey, spec: Spec, only: Selectors, skip: Selectors, model: str
) -> tuple[list[Site], list[tuple[Site, str]]]:
    """Split the sites into those to replace and those to leave, with reasons."""
    ours = [s for s in found.sites if not s.source.kind.startswith("actswap.")]
    if not found.sites:
        raise UsageError(
            f"no activation found in {model}",
            why="its forward pass on these inputs makes no activation call",
            fix="actswap scan MODEL --why NAME",
        )
    if not ours:
        raise UsageError(
            f"this {model} is already converted",
            why=f"all {len(found.sites)} activation calls go to actswap modules",
            fix="revert it first: actswap.revert(model)",
        )
    names = {s.name for s in select(found.sites, only, skip)}
    chosen: list[Site] = []
    left: list[tuple[Site, str]] = []
    for site in found.sites:
        if site.name not in names:
            gate = site.role == "gate" and not only
            left.append((site, site.reason or ("gate: left alone unless selected" if gate else "not selected")))
        elif site.how == "left":
            left.append((site, site.reason))
        elif site.source.kind == spec.name:
            left.append((site, f"is {spec.name} already"))
        elif site.channels is None and not spec.per_layer:
            left.append((site, f"its channel axis is not clear, and {spec.name} needs one"))
        else:
            chosen.append(site)
    if not chosen:
        reasons = "; ".join(sorted({r for _, r in left}))
        raise UsageError(f"nothing to replace in {model}", why=reasons, fix="actswap scan MODEL shows every site")
    return chosen, left


def _needs_statistics(spec: Spec, choices: Iterable[Choice], start: str) -> bool:
    """Limits scale with the spread of a site's inputs, fits follow their distribution; exact starts need neither."""
    promises = {spec.promise(split(c.site.source).core) for c in choices}
    return start == "fit" or (start != "none" and bool(promises & {"limit", "fit"}))


def _replaced(plan: Plan) -> tuple[Replaced, ...]:
    return tuple(
        Replaced(c.site, c.target, c.start.kind, c.start.beta, c.start.bound, c.start.error, c.start.note)
        for c in plan.choices
    )


def _left(plan: Plan) -> tuple[Left, ...]:
    return tuple(Left(site, reason) for site, reason in plan.left)


def _fail(
    report: Report,
    original: nn.Module | None,
    work: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    parity, counts = report.parity, report.census
    if counts is not None and not counts.complete:
        raise VerificationError(
            "the converted model does not make the planned activation calls",
            why=f"before: {dict(counts.before)}, after: {dict(counts.after)}, {counts.replaced} replaced, "
            f"{counts.left} left on purpose",
            fix="convert fewer sites with only= or skip=, or start from the original model again",
        )
    assert parity is not None
    where = ""
    if original is not None:
        where = first_difference(original, work, args, kwargs, report.tolerance).first_divergent_site or ""
    raise VerificationError(
        f"the converted model is off by {parity.rel:.2e}, more than the tolerance {report.tolerance:g}",
        where=where,
        why="the starts do not keep the network's function closely enough",
        fix="--start morph is exact at t=0; or allow more: --tolerance",
    )


def _peak() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
