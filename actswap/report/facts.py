"""What a report shows, gathered from a converted network: plain data, made before any HTML."""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actswap.activations.describe import describe
from actswap.activations.hooks import hooked
from actswap.activations.plain import evaluate, known
from actswap.capture.evaluating import evaluating
from actswap.checks.cost import Cost, measure
from actswap.fit.points import Array
from actswap.inputs import as_inputs
from actswap.plan import Choice, Plan
from actswap.sites import Site, Source

_BARS, _POINTS, _KEPT = 48, 240, 20_000


@dataclass(frozen=True)
class Picture:
    """One activation on real data.

    Attributes:
        edges: histogram edges of what comes in, (bars + 1,).
        shares: share of the values in each bar, (bars,).
        points: inputs and outputs that occurred, (n, 2). Activations that look at the whole input, such as meta-ACON,
            have no curve, so their points are all there is to see.
        source: the curve of the replaced activation, (m, 2); None if it has no formula.
    """

    edges: Array
    shares: Array
    points: Array
    source: Array | None


@dataclass(frozen=True)
class SiteFacts:
    """One replaced site."""

    choice: Choice
    picture: Picture | None
    unit: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """Everything a report shows.

    Attributes:
        title: heading.
        target: activation asked for.
        sites: the replaced sites, in order.
        left: (site, reason) of the others.
        parity: agreement with the original network at conversion, as `Parity.to_dict` gives it; empty if not
            known.
        proof: the checks at conversion, as `Proof.to_dict` gives them; empty if not known.
        cost: `before` and `after`, for one run on the example inputs.
        latency: milliseconds of processor time of one run, medians of interleaved runs in one thread.
        accuracy: scores in percent by name, e.g. `original`, `at conversion`, `after fine-tuning`.
        metrics: lines of a fine-tuning run.
        notes: sentences for the reader.
        made: date, machine and versions.
    """

    title: str
    target: str
    sites: tuple[SiteFacts, ...]
    left: tuple[tuple[Site, str], ...]
    parity: Mapping[str, Any] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Cost] = field(default_factory=dict)
    latency: Mapping[str, float] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    made: str = ""


def gather(
    model: nn.Module,
    plan: Plan,
    inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    original: nn.Module | None = None,
    title: str = "",
    parity: Mapping[str, Any] | None = None,
    proof: Mapping[str, Any] | None = None,
    accuracy: Mapping[str, float] | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    repeats: int = 5,
) -> Facts:
    """Run a converted network on inputs and gather what its report shows.

    Args:
        model: the converted network, trained since or not; not changed.
        plan: its plan.
        inputs: a tensor, a tuple of arguments or a dict of keyword arguments, real data if possible.
        kwargs: keyword arguments.
        original: the network it was made from, for cost and latency before.
        title: heading; empty for the class name.
        parity: agreement at conversion.
        proof: the checks at conversion.
        accuracy: scores in percent by name.
        metrics: lines of metrics.jsonl.
        notes: sentences for the reader.
        repeats: timed runs of each network; 0 times nothing.
    """
    args, named = as_inputs(inputs, kwargs)
    pictures = _pictures(model, plan, args, named)
    networks = {"before": original, "after": model} if original is not None else {"after": model}
    return Facts(
        title=title or type(model).__name__,
        target=plan.target,
        sites=tuple(
            SiteFacts(choice, pictures.get(choice.path), describe(model.get_submodule(choice.path)))
            for choice in plan.choices
        ),
        left=plan.left,
        parity=parity or {},
        proof=proof or {},
        cost={name: measure(network, args, named) for name, network in networks.items() if network is not None},
        latency=_latency({k: n for k, n in networks.items() if n is not None}, args, named, repeats),
        accuracy=accuracy or {},
        metrics=metrics,
        notes=notes,
        made=f"{datetime.date.today().isoformat()}, {platform.machine()}, torch {torch.__version__}",
    )


def _pictures(model: nn.Module, plan: Plan, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Picture]:
    """Record what comes in and out of every replaced site in one run."""
    seen: dict[str, tuple[Array, Array]] = {}
    generator = torch.Generator().manual_seed(0)

    def watch(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if path in seen or not isinstance(output, Tensor) or output.shape != inputs[0].shape:
                return
            x, y = (t.detach().double().flatten().cpu() for t in (inputs[0], output))
            if x.numel() > _KEPT:
                chosen = torch.randint(x.numel(), (_KEPT,), generator=generator)
                x, y = x[chosen], y[chosen]
            seen[path] = x.numpy(), y.numpy()

        return hook

    watched = {c.path: model.get_submodule(c.path) for c in plan.choices}
    with hooked(m.register_forward_hook(watch(p)) for p, m in watched.items()), evaluating(model):
        model(*args, **kwargs)
    sources = {choice.path: choice.site.source for choice in plan.choices}
    return {path: _picture(x, y, sources[path]) for path, (x, y) in seen.items() if np.isfinite(x).any()}


def _picture(x: Array, y: Array, source: Source) -> Picture:
    whole = np.isfinite(x) & np.isfinite(y)
    x, y = x[whole], y[whole]
    lo, hi = float(x.min()), float(x.max())
    if not lo < hi:
        lo, hi = lo - 1, hi + 1
    counts, edges = np.histogram(x, bins=_BARS, range=(lo, hi))
    # Points spread evenly over the range, not over the data, because fits go wrong in the tails.
    order = np.argsort(x, kind="stable")
    wanted = np.searchsorted(x[order], np.linspace(lo, hi, _POINTS)).clip(0, x.size - 1)
    chosen = np.unique(order[wanted])
    grid = np.linspace(lo, hi, 121)
    curve = _curve(source, grid)
    return Picture(edges, counts / counts.sum(), np.stack([x[chosen], y[chosen]], 1), curve)


def _curve(source: Source, grid: Array) -> Array | None:
    if not known(source):
        return None
    scalars = tuple((k, sum(v) / len(v) if isinstance(v, tuple) else v) for k, v in source.params)
    values = evaluate(replace(source, params=scalars), torch.from_numpy(grid)).numpy()
    return np.stack([grid, values], 1)


def _latency(
    networks: Mapping[str, nn.Module], args: tuple[Any, ...], kwargs: Mapping[str, Any], repeats: int
) -> dict[str, float]:
    """Return milliseconds of processor time per run; runs alternate, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for turn in range(repeats + 1 if repeats else 0):
            for name, network in networks.items():
                with evaluating(network):
                    began = time.thread_time()
                    network(*args, **kwargs)
                    if turn:  # the first run warms up
                        times[name].append(1e3 * (time.thread_time() - began))
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in times.items() if values}
