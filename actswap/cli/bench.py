"""`actswap bench`: two models timed side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from actswap.cli.verb import INPUT_OPTION, MODEL_OPTIONS, Answer, inputs_for, load, progress, table, verb
from actswap.cli.verify import onnx_runner


@verb(
    click.argument("first", metavar="A", type=click.Path()),
    click.argument("second", metavar="B", type=click.Path()),
    MODEL_OPTIONS,
    INPUT_OPTION,
    click.option("--runs", type=click.IntRange(min=3), default=20, show_default=True, help="Timed runs of each."),
    click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of PyTorch."),
)
def command(
    first: str,
    second: str,
    spec: str | None,
    allow: tuple[str, ...],
    trust_pickle: bool,
    base: str | None,
    specs: tuple[str, ...],
    runs: int,
    threads: int,
) -> Answer:
    """Time A and B in turns on the same inputs; the ratio is the median over the pairs of runs."""
    import torch

    torch.set_num_threads(threads)
    loaded = load(first, spec, allow, trust_pickle, base)
    inputs = inputs_for(loaded, specs)
    one = _torch_runner(loaded.module, inputs.args, inputs.kwargs)
    if Path(second).suffix == ".onnx":
        session = onnx_runner(second)
        two: Callable[[], Any] = lambda: session(inputs.args, inputs.kwargs)  # noqa: E731 (one expression)
    else:
        of_first = base or (first if Path(first).is_file() and Path(second).is_dir() else None)
        two = _torch_runner(load(second, spec, allow, trust_pickle, of_first).module, inputs.args, inputs.kwargs)
    with progress() as update:
        pairs = _interleave(one, two, runs, update)
    a, b = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    ratios = sorted(y / x for x, y in pairs)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    data = {
        "first_ms": a * 1e3,
        "second_ms": b * 1e3,
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [low, high],
        "runs": runs,
        "threads": threads,
        "input": inputs.said,
    }
    rows = table("", "model", "median ms", "relative to A", right=("median ms", "relative to A"))
    rows.add_row(first, f"{a * 1e3:.2f}", "1.00")
    rows.add_row(second, f"{b * 1e3:.2f}", f"{data['ratio']:.2f} ({low:.2f} to {high:.2f})")
    return Answer(data, [rows])


def _torch_runner(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return model(*args, **kwargs)

    return run


def _interleave(one: Callable[[], Any], two: Callable[[], Any], runs: int, update: Any) -> list[tuple[float, float]]:
    """Time the two in turns, after two runs of each that do not count; the order alternates."""
    for _ in range(2):
        one(), two()
    pairs = []
    for k in range(runs):
        times = {}
        for name, call in ((0, one), (1, two)) if k % 2 else ((1, two), (0, one)):
            began = time.perf_counter()
            call()
            times[name] = time.perf_counter() - began
        pairs.append((times[0], times[1]))
        if update is not None:
            update(k + 1, runs, "timing")
    return pairs
