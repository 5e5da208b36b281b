"""Convert a pretrained model: find, choose, start, prove."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from actswap import activations
from actswap.activations.bounded import split
from actswap.capture.duplicate import duplicate
from actswap.capture.observe import observe
from actswap.capture.state import refuse_uninitialized
from actswap.capture.tape import Tape
from actswap.capture.wrappers import network_in, refuse_sharded, renew
from actswap.checks.census import census, count
from actswap.checks.check import Proof
from actswap.checks.gradients import Pass
from actswap.checks.parity import Parity, compare, run, worst
from actswap.checks.precision import as_float32, low_precision, own_precision, raised, runs_in_float32
from actswap.checks.proof import look, train_once
from actswap.checks.signal import few, more_runs, signals_of
from actswap.conversion.calibrate import calibrate, calibrate_in_training, channels_apart, watching
from actswap.conversion.choose_sites import choose_sites
from actswap.conversion.choose_starts import choose_starts
from actswap.conversion.isolation import settle
from actswap.conversion.outcome import Conversion, Left, Replaced, Report
from actswap.conversion.passes.isolate import Originals
from actswap.conversion.passes.replace import settle_precision
from actswap.conversion.passes.revert import undo
from actswap.conversion.prove import comparable, final_checks, isolated, judge, subject_of
from actswap.conversion.rules import Targets, read_rules
from actswap.conversion.survey import Sites, Survey, survey
from actswap.conversion.training_only import runs_in_eval
from actswap.errors import UsageError
from actswap.fit.histogram import Histogram
from actswap.inputs import as_inputs, call_of
from actswap.plan import Choice, Plan
from actswap.recognize.locate import locate
from actswap.record import remember
from actswap.select import Selectors
from actswap.sites import STARTS, Progress, Site

_MOST_ROUNDING = 0.05  # of the signal: the most that rounding may raise the tolerance to, in any precision
_PROBES = 4  # calibration batches on which the whole-network error is measured, beside the example inputs


@torch.inference_mode(False)
def convert(
    model: nn.Module,
    target: Targets,
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
    verify: bool | str = True,
    scanned: Sites | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Conversion:
    """Replace activations of a pretrained model by trainable ones that begin as the same function.

    Args:
        model: any module; not changed unless `inplace`. What `torch.compile`, DataParallel or DDP have put around the
            network stays around the result.
        target: name of the activation, see `actswap.list_activations()`, or names by selector; the first selector that
            matches a site holds: `{"layer4.*": "meta_acon(space=layer)", "type:silu": "hardswish", "*": "acon_c"}`.
        example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments that the model accepts.
        example_kwargs: keyword arguments.
        only: selectors of the sites to replace; by default all except gates.
        skip: selectors of sites to leave.
        start: `auto`, or the start that every site must have: `exact`, `limit`, `fit`, `morph`, `none`.
        tolerance: error of the network's output that the starts may cause, relative to how much the output varies. A
            value below four roundings of the output is raised to that: smaller errors cannot be measured. A network in
            half precision is held to it in float32, see `actswap.checks.precision`.
        calibration: batches of real inputs, for fits and for the search of beta; by default the example inputs.
        options: options of a single target, e.g. `{"space": "layer"}`; several targets have theirs in brackets.
        inplace: convert `model` itself, without a second copy of its weights.
        verify: True: compare outputs, outputs with moved weights, gradients and dtypes, and count calls in both modes;
            `"outputs"`: compare outputs and count calls in eval mode only; False: nothing.
        scanned: what `scan` returned for this model on these inputs, so that it need not be observed again.
        seed: of the random numbers that some targets start with; the same seed gives the same bits.
        progress: called with (done, total, text) during long steps.

    Returns:
        The converted model, the plan, the report.

    Raises:
        UsageError: unknown target or start, or nothing to replace.
        SelectionError: a selector matches nothing.
        CaptureError: the model does not run on the inputs.
        StartError: the start asked for does not exist at some site.
        VerificationError: the converted model fails its checks.

    >>> import torch, actswap
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.randn(8, 4)
    >>> result = actswap.convert(model, "acon_c", x)
    >>> [(r.site.name, r.target, r.start) for r in result.report.replaced], result.report.ok
    ([('1', 'acon_c', 'limit')], True)
    >>> result.report.proof["gradients"].passed
    True
    """
    clock = _Clock()
    rules = read_rules(target, options)
    asked = ", ".join(map(str, rules))
    if start not in STARTS:
        raise UsageError(f"unknown start {start!r}", fix=f"start must be one of {', '.join(STARTS)}")
    if not tolerance > 0:
        raise UsageError(f"tolerance={tolerance}", why="it must be positive", fix="tolerance=1e-3")
    if verify not in (True, False, "outputs"):
        raise UsageError(f"verify={verify!r}", fix='verify=True, verify="outputs" or verify=False')
    args, kwargs = as_inputs(example_inputs, example_kwargs)
    refuse_sharded(network_in(model))
    refuse_uninitialized(model)
    whole = model if inplace else duplicate(model)
    model, work = network_in(model), network_in(whole)
    found = _surveyed(scanned, model) if scanned is not None else None
    anew = found is None or not (inplace or found.portable)
    trained = train_once(work, args, kwargs, watch=anew) if verify is True else ""
    if found is None or anew:
        found = survey(work, args, kwargs, trained.tape if isinstance(trained, Pass) else None)
    assigned, left = choose_sites(found, rules, only, skip, type(model).__name__)
    chosen, by_name = list(assigned), {site.name: rule for site, rule in assigned.items()}
    clock.lap("scan")
    expected = runs_in_float32(work, args, kwargs) if low_precision(work) else None
    with ExitStack() as precision:
        counted = count(found.located.values())
        own = (args, kwargs)
        if expected is not None:
            precision.enter_context(raised(work))
            args, kwargs = as_float32(own)
            trained = train_once(work, args, kwargs) if verify is True else ""
        probes = [(args, kwargs)]
        if calibration is not None:
            calibration = iter(calibration) if expected is None else map(as_float32, calibration)
            ahead = list(itertools.islice(calibration, _PROBES))
            probes += [call_of(batch) for batch in ahead]
            calibration = itertools.chain(ahead, calibration)
        references = [expected or list(found.tape.results), *(run(work, *probe) for probe in probes[1:])]
        measurable = not any(t.is_meta for t in references[0])
        others = more_runs(lambda *call: run(work, *call), args, kwargs, references[0])
        signals = signals_of([*references, *(outputs for _, outputs in others)])
        if few(references[0]):  # a single number may agree by chance
            probes += [call for call, _ in others]
            references += [outputs for _, outputs in others]
        tolerance = max([tolerance, *(min(s.rounding, _MOST_ROUNDING) for s in signals)])
        histograms: dict[str, Histogram] = {}

        def probe(isolated: Plan) -> list[Tensor]:
            """Run the isolated model; without other calibration data, the same run also records the histograms."""
            statistics = calibration is None and measurable and _needs_statistics(isolated.choices, start)
            with watching(work, _in_eval(isolated) if statistics else ()) as streams:
                outputs = run(work, args, kwargs)
            histograms.update({path: stream.finish() for path, stream in streams.items()})
            return outputs

        def settled(sites: Sequence[Site], stay: Sequence[tuple[Site, str]]) -> tuple[Plan, Originals]:
            return settle(work, found, sites, stay, asked, by_name, references[0], signals, probe)

        subject = subject_of(work, found, chosen, args, kwargs, signals)
        seen = look(work, subject, comparable(work, chosen, subject, trained)) if verify is True else None
        apart = isolated(work, found, chosen, left, settled, subject, seen)
        plan, originals, checks = apart.plan, apart.originals, apart.checks
        plan = replace(plan, choices=tuple(replace(choice, seed=seed) for choice in plan.choices))
        clock.lap("isolate")
        try:
            if measurable and _needs_statistics(plan.choices, start):
                if calibration is not None:
                    histograms = calibrate(work, _in_eval(plan), calibration, progress)
                    clock.lap("calibrate")
                histograms |= calibrate_in_training(work, _in_training(plan), args, kwargs)

            latest: tuple[Tape, Parity | None] | None = None

            def look_again() -> tuple[Tape, Parity | None]:
                """Observe the model as it is now, and compare its outputs on all probes with those of the original."""
                again = observe(work, args, kwargs)
                results = [list(again.results), *(run(work, *probe) for probe in probes[1:])]
                pairs = zip(references, results, strict=True)
                return again, worst(compare(*pair, signals) for pair in pairs) if measurable else None

            def error() -> float:
                nonlocal latest
                latest = look_again()
                return math.inf if latest[1] is None else latest[1].rel

            measure = error if measurable else None
            plan, current = choose_starts(work, plan, start, tolerance, histograms, measure, progress)
            clock.lap("start")
            parity = counts = in_training = None
            if verify:
                again, parity = latest if current and latest is not None else look_again()
            if seen is not None:
                more, in_training = final_checks(work, plan, found, subject, seen)
                checks += more
            if expected is not None:
                precision.close()
                settle_precision(work, plan.choices)
            if verify and expected is not None:
                again = observe(work, *own)
                checks += (own_precision(expected, found.tape.results, list(again.results), signals, tolerance),)
            if verify:
                replaced = sum(c.site.calls for c in plan.choices if runs_in_eval(c.site))
                counts = census(counted, count(locate(work, again)), replaced)
                clock.lap("verify")
            report = Report(
                asked,
                tuple(map(Replaced.of, plan.choices)),
                tuple(Left(site, reason) for site, reason in plan.left),
                parity,
                counts,
                tolerance,
                clock.laps,
                _peak(),
                Proof(checks) if checks else None,
                in_training,
            )
            judge(report, None if inplace or expected is not None else model, work, subject)
        except BaseException:
            if inplace:
                undo(work, plan, originals)
            raise
        remember(work, plan, originals)
        renew(whole)
        return Conversion(whole, plan, report)


def _in_eval(plan: Plan) -> dict[str, tuple[int, int] | None]:
    return {c.path: channels_apart(c) for c in plan.choices if runs_in_eval(c.site)}


def _in_training(plan: Plan) -> dict[str, tuple[int, int] | None]:
    return {c.path: channels_apart(c) for c in plan.choices if not runs_in_eval(c.site)}


def _surveyed(scanned: Sites, model: nn.Module) -> Survey:
    if scanned.survey.model is not model:
        raise UsageError(
            f"scanned= is of another {type(scanned.survey.model).__name__}",
            fix="convert(model, target, x, scanned=scan(model, x))",
        )
    return scanned.survey


def _needs_statistics(choices: Iterable[Choice], start: str) -> bool:
    """Return whether a start needs the inputs of its site: limits need their spread, fits their distribution."""
    promises = {activations.get(c.target).promise(split(c.site.source).core) for c in choices}
    return start == "fit" or (start != "none" and bool(promises & {"limit", "fit"}))


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
