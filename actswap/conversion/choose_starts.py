"""Choose how each target begins, so that the whole network stays within its tolerance.

1. Every site gets the best start its pair promises: exact, limit, fit; `morph` if it promises none.
2. All fits together may use a quarter of the tolerance. The worst are turned into `morph` until that holds.
3. Limits share one relative sharpness k, with beta = k / std(site). The smallest k that keeps the network within
   tolerance is chosen, because it is the most trainable. beta is relative to the spread of the site's inputs: with one
   beta for all sites, the site with the smallest inputs would force an enormous beta on every other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from actswap import activations
from actswap.activations.base import StartContext
from actswap.activations.bounded import split
from actswap.activations.plain import known
from actswap.conversion.passes.replace import load_start
from actswap.conversion.passes.replace import replace as replace_module
from actswap.conversion.passes.surgery import set_module
from actswap.errors import StartError
from actswap.fit.histogram import Histogram
from actswap.plan import Choice, Plan
from actswap.sites import Progress, Start

_SHARPEST, _DEFAULT = 1e6, 1e3
_POWER = 1.5  # with which the error falls when the sharpness rises
_STILL = 1e-4  # a fit on a smaller range has coefficients outside of float32, and holds nowhere else
_STORED_BINS = 64  # of each site's histogram, in the plan
_STEP = 1.2  # the search ends when the interval, or the unused part of the tolerance, is within this factor
_TRIES = 6  # after this many, the search bisects instead of predicting the error
_SHARE = 0.5  # of the tolerance, for the inputs that the search sees; the rest is for other inputs


def choose_starts(
    model: nn.Module,
    plan: Plan,
    kind: str,
    tolerance: float,
    histograms: Mapping[str, Histogram],
    error: Callable[[], float] | None,
    progress: Progress | None = None,
) -> tuple[Plan, bool]:
    """Replace every isolated activation of `model` by its target at the start chosen for it.

    Args:
        model: an isolated model, changed in place.
        plan: its plan, without starts.
        kind: `auto`, or the start that every site must have.
        tolerance: relative error of the network's output.
        histograms: calibration by path, for fits.
        error: measures the network's relative output error; None if nothing can be run (meta device).
        progress: called with (done, total, text).

    Returns:
        The plan with its starts, and whether `error` was last called on the model as it is now.

    Raises:
        StartError: a site has no start of the asked-for kind.
    """
    starter = _Starter(histograms)
    first = [starter.first(c, kind) for c in plan.choices]
    choices = [
        replace(c, start=s, histogram=histograms[c.path].coarse(_STORED_BINS) if c.path in histograms else None)
        for c, s in zip(plan.choices, first, strict=True)
    ]
    if kind == "auto" and error is not None:
        choices = _keep_good_fits(model, choices, tolerance * _SHARE / 2, error)
    placed: dict[str, nn.Module] = {}
    for i, choice in enumerate(choices):
        placed[choice.path] = replace_module(model, choice)
        if progress is not None:
            progress(i + 1, len(choices), "replacing")
    limits = [c for c in choices if c.start.kind == "limit"]
    measured = False
    if limits and error is not None:
        k, attained, last = _smallest_sharpness(limits, placed, starter, tolerance * _SHARE, error, progress)
        choices = [replace(c, start=starter.start(c, k)) if c.start.kind == "limit" else c for c in choices]
        for c in choices:
            load_start(placed[c.path], c.start.params)
        measured = last == k
        if kind == "auto" and attained > tolerance:
            measured = False
            choices = [_as_morph(c) for c in choices]
            for c in choices:
                replace_module(model, c)
    return replace(plan, choices=tuple(choices)), measured


class _Starter:
    """Makes starts from the statistics of each site."""

    def __init__(self, histograms: Mapping[str, Histogram]) -> None:
        self.histograms = histograms

    def first(self, choice: Choice, kind: str) -> Start:
        """Return the start of the asked-for kind, or the best that the pair promises."""
        core = split(choice.site.source).core
        promise = activations.get(choice.target).promise(core) if known(core) else "none"
        wanted = {"auto": promise if promise != "none" else "morph"}.get(kind, kind)
        if wanted == "none":
            return Start("none", note="does not preserve the network's function")
        if wanted not in (promise, "morph"):
            raise StartError(
                f"{choice.target} has no {wanted} start for {choice.site.source}",
                where=f"{choice.site.name} ({choice.site.line})",
                why=f"the pair promises {promise}",
                fix="start='auto', or start='morph', which is exact at t=0 for every pair",
            )
        if not known(core):
            return Start("morph", bound=0.0)
        try:
            start = self.start(choice, _DEFAULT)
        except StartError as error:
            if wanted != "morph" and kind != "auto":
                raise
            return Start("morph", bound=0.0, note=error.why)
        return _morphed(start) if wanted == "morph" else start

    def start(self, choice: Choice, sharpness: float) -> Start:
        """Return the start at a sharpness that is relative to the spread of the site's inputs."""
        core, shift, _ = split(choice.site.source)
        histogram = self.histograms.get(choice.path)
        std = histogram.std if histogram is not None and histogram.std > 0 else 1.0
        beta = _two_digits(sharpness / std)
        if histogram is not None and shift:
            histogram = histogram.shifted(-shift)
        if histogram is not None and histogram.hi - histogram.lo < _STILL:
            histogram = None  # the fit takes the range that it takes without calibration
        start = activations.get(choice.target).start(core, StartContext(beta, histogram, choice.options))
        return replace(start, beta=beta) if start.kind == "limit" else start


def _two_digits(beta: float) -> float:
    return float(f"{beta:.2g}")


def _morphed(start: Start) -> Start:
    return replace(start, kind="morph", bound=0.0, beta=None)


def _as_morph(choice: Choice) -> Choice:
    return replace(choice, start=_morphed(choice.start))


def _keep_good_fits(model: nn.Module, choices: list[Choice], budget: float, error: Callable[[], float]) -> list[Choice]:
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


def _smallest_sharpness(
    limits: Sequence[Choice],
    placed: Mapping[str, nn.Module],
    starter: _Starter,
    tolerance: float,
    error: Callable[[], float],
    progress: Progress | None,
) -> tuple[float, float, float]:
    """Search the smallest sharpness at which the error is within the tolerance; return it, the error, the last tried.

    A smoothed kink is off by up to 1 / sharpness, for a share of the inputs that is as small again; so the root mean
    square falls with the power 1.5, and the first tries are predicted with that. After tries on both sides of the goal,
    it is predicted with a power law through both. If no sharpness up to the sharpest will do, the sharpest is returned.
    The modules are left at the last sharpness tried.
    """
    low, high = (1.0, math.inf), (math.inf, 0.0)  # (sharpness, error), too large and fine; the first is never tried
    goal, sharpness = tolerance / math.sqrt(_STEP), _DEFAULT
    for tries in itertools.count(1):
        for c in limits:
            load_start(placed[c.path], starter.start(c, sharpness).params)
        if progress is not None:
            progress(tries, 0, f"sharpness {sharpness:.3g}")
        found = error()
        found = max(found, 1e-3 * goal) if found < math.inf else math.inf  # NaN is too large
        if found <= tolerance:
            high = (sharpness, found)
        elif sharpness >= _SHARPEST:
            return sharpness, found, sharpness
        else:
            low = (sharpness, found)
        if high[0] < low[0] * _STEP or goal / math.sqrt(_STEP) < found <= tolerance:
            return *high, sharpness
        if high[0] < math.inf and low[1] < math.inf and tries < _TRIES:
            power = math.log(low[1] / goal) / math.log(low[1] / high[1])
            sharpness = low[0] * (high[0] / low[0]) ** power
        elif tries < _TRIES:
            sharpness *= min(found / goal, 1e3) ** (1 / _POWER)
        else:
            sharpness = math.sqrt(low[0] * min(high[0], _SHARPEST))
        sharpness = min(max(sharpness, low[0] * 1.05), high[0] / 1.05, _SHARPEST)
    raise AssertionError("the search ends")
