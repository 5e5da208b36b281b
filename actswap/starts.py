"""Choose how each target begins, so that the whole network stays within its tolerance.

1. Every site gets the best start its pair promises: exact, limit, fit; `morph` where there is none.
2. Fits together may use half of the tolerance; the worst are turned into `morph` until they do.
3. Limits share one sharpness beta: the smallest, so the most trainable, that keeps the network within tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from actswap.activations.base import Spec, StartContext
from actswap.activations.bounded import split
from actswap.errors import StartError
from actswap.fit.histogram import Histogram
from actswap.passes.isolate import set_module
from actswap.passes.replace import load_start
from actswap.passes.replace import replace as replace_module
from actswap.plan import Choice, Plan
from actswap.sites import Start

_BETA_LOW, _BETA_HIGH, _BETA_DEFAULT = 1.0, 1e6, 1e3
_BETA_STEP = 1.2  # the search ends when the interval is this narrow
Progress = Callable[[int, int, str], None]


def choose_starts(
    model: nn.Module,
    plan: Plan,
    spec: Spec,
    kind: str,
    tolerance: float,
    histograms: Mapping[str, Histogram],
    error: Callable[[], float] | None,
    progress: Progress | None = None,
) -> Plan:
    """Replace every isolated activation of `model` by its target at the start chosen for it.

    Args:
        model: an isolated model, changed in place.
        plan: its plan, without starts.
        spec: the target.
        kind: `auto`, or the start that every site must have.
        tolerance: relative error of the network's output.
        histograms: calibration by path, for fits.
        error: measures the network's relative output error; None where nothing can be run (meta device).
        progress: called with (done, total, text).

    Returns:
        The plan with its starts.

    Raises:
        StartError: a site has no start of the asked-for kind.
    """
    first = [_first_start(c, spec, kind, histograms.get(c.path)) for c in plan.choices]
    choices = [replace(c, start=s) for c, s in zip(plan.choices, first, strict=True)]
    if kind == "auto" and error is not None:
        choices = _keep_good_fits(model, choices, tolerance / 2, error)
    placed = {}
    for i, choice in enumerate(choices):
        placed[choice.path] = replace_module(model, choice)
        if progress is not None:
            progress(i + 1, len(choices), "replacing")
    limits = [c for c in choices if c.start.kind == "limit"]
    if limits and error is not None:
        beta = _smallest_beta(limits, placed, spec, tolerance, error, progress)
        choices = [_sharpened(c, spec, beta) if c.start.kind == "limit" else c for c in choices]
        for c in choices:
            load_start(placed[c.path], c.start)
        if kind == "auto" and error() > tolerance:
            choices = [_as_morph(c) for c in choices]
            for c in choices:
                replace_module(model, c)
    return replace(plan, choices=tuple(choices))


def _first_start(choice: Choice, spec: Spec, kind: str, histogram: Histogram | None) -> Start:
    core, shift, _ = split(choice.site.source)
    promise = spec.promise(core)
    wanted = {"auto": promise if promise != "none" else "morph"}.get(kind, kind)
    if wanted == "none":
        return Start("none", note="does not preserve the network's function")
    if wanted == "morph":
        try:
            return replace(_start(choice, spec, histogram), kind="morph", bound=0.0)
        except StartError as error:
            return Start("morph", bound=0.0, note=error.why)
    if wanted != promise:
        raise StartError(
            f"{spec.name} has no {wanted} start for {choice.site.source}",
            where=f"{choice.site.name} ({choice.site.line})",
            why=f"the pair promises {promise}",
            fix="start='auto', or start='morph', which is exact at t=0 for every pair",
        )
    try:
        return _start(choice, spec, histogram)
    except StartError:
        if kind != "auto":
            raise
        return Start("morph", bound=0.0)


def _start(choice: Choice, spec: Spec, histogram: Histogram | None, beta: float = _BETA_DEFAULT) -> Start:
    core, shift, _ = split(choice.site.source)
    if histogram is not None and shift:
        histogram = histogram.shifted(-shift)
    start = spec.start(core, StartContext(beta, histogram))
    return replace(start, beta=beta) if start.kind == "limit" else start


def _sharpened(choice: Choice, spec: Spec, beta: float) -> Choice:
    return replace(choice, start=_start(choice, spec, None, beta))


def _as_morph(choice: Choice) -> Choice:
    return replace(choice, start=replace(choice.start, kind="morph", bound=0.0))


def _keep_good_fits(
    model: nn.Module, choices: list[Choice], budget: float, error: Callable[[], float]
) -> list[Choice]:
    """Turn the worst fits into morphs until the others together stay within the budget."""
    fits = sorted((c for c in choices if c.start.kind == "fit"), key=lambda c: (c.start.rms or 0.0, c.path))
    if not fits:
        return choices

    def fine(count: int) -> bool:
        standing = {c.path: model.get_submodule(c.path) for c in fits[:count]}
        for c in fits[:count]:
            replace_module(model, c)
        good = error() <= budget
        for path, module in standing.items():
            set_module(model, path, module)
        return good

    low, high = 0, len(fits)
    if fine(high):
        return choices
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fine(middle) else (low, middle)
    keep = {c.path for c in fits[:low]}
    return [_as_morph(c) if c.start.kind == "fit" and c.path not in keep else c for c in choices]


def _smallest_beta(
    limits: Sequence[Choice],
    placed: Mapping[str, Any],
    spec: Spec,
    tolerance: float,
    error: Callable[[], float],
    progress: Progress | None,
) -> float:
    """Bisect the logarithm of beta; the error falls as 1/beta or faster."""
    tries = 0

    def fine(beta: float) -> bool:
        nonlocal tries
        tries += 1
        for c in limits:
            load_start(placed[c.path], _start(c, spec, None, beta))
        if progress is not None:
            progress(tries, 0, f"beta {beta:.3g}")
        return error() <= tolerance

    low, high = _BETA_LOW, 100.0
    while not fine(high):
        low, high = high, high * 10
        if high > _BETA_HIGH:
            return _BETA_HIGH
    while high / low > _BETA_STEP:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if fine(middle) else (middle, high)
    return _rounded_up(high)


def _rounded_up(beta: float) -> float:
    """Two significant digits, upwards."""
    digits = 10.0 ** (len(str(int(beta))) - 2)
    return float(-(-beta // digits) * digits)
