"""`actswap bench`: models and ONNX files timed side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actswap.cli.verb import (
    INPUT_OPTION,
    MODEL_OPTIONS,
    Answer,
    ModelOptions,
    inputs_for,
    load,
    progress,
    say,
    table,
    verb,
)
from actswap.errors import UsageError

if TYPE_CHECKING:
    from actswap.inputs import Inputs
    from actswap.onnx.bench import Contender, Row


@verb(
    click.argument("paths", metavar="A [B ...]", nargs=-1, required=True, type=click.Path()),
    MODEL_OPTIONS,
    INPUT_OPTION,
    click.option("--runs", type=click.IntRange(min=3), default=20, show_default=True, help="Timed runs of each."),
    click.option(
        "--threads", type=click.IntRange(min=1), multiple=True, default=(1,), show_default=True, help="Repeatable."
    ),
    click.option(
        "--batch", type=click.IntRange(min=1), multiple=True, help="Batch size, repeatable; default that of the input."
    ),
    click.option("--portable", is_flag=True, help="Run ONNX files in a plain ONNX Runtime, without the kernels."),
)
def command(
    paths: tuple[str, ...],
    how: ModelOptions,
    specs: tuple[str, ...],
    runs: int,
    threads: tuple[int, ...],
    batch: tuple[int, ...],
    portable: bool,
) -> Answer:
    """Time models, bundles and ONNX files in turns on the same inputs; ratios are to the first, run by run.

    With one thread CPU time is measured, which other programs disturb less; with more threads, the clock.
    """
    from actswap.onnx.bench import bench

    contenders, inputs = _contenders(paths, how, specs, portable)
    with progress() as update:
        report = bench(
            contenders,
            inputs.args if inputs is not None else None,
            example_kwargs=inputs.kwargs if inputs is not None else None,
            batches=batch or None,
            threads=threads,
            rounds=runs,
            progress=update,
        )
    last = report.rows[-1]
    data = {
        **report.to_dict(),
        "ratio": last.ratio,
        "ratio_quartiles": [last.low, last.high],
        "input": inputs.said if inputs is not None else "random, by the files' own shapes",
    }
    numbers = ("threads", "batch", "median ms", "p90", "p99", "relative to A")
    rows = table("", "model", "way", *numbers, right=numbers)
    for row in report.rows:
        rows.add_row(*_cells(row))
    return Answer(data, [rows])


def _contenders(
    paths: tuple[str, ...],
    how: ModelOptions,
    specs: tuple[str, ...],
    portable: bool,
) -> tuple[list[Contender], Inputs | None]:
    """Open everything; the inputs are those of the first model, or given, or left to the files."""
    from actswap.inputs import parse
    from actswap.io.bundle import is_bundle
    from actswap.onnx.bench import Contender

    contenders: list[Contender] = []
    inputs: Inputs | None = None
    original = how.base
    for path in paths:
        if Path(path).suffix == ".onnx":
            if not Path(path).is_file():
                raise UsageError(f"there is no file {path}", fix=f"actswap export MODEL -o {path}")
            contenders.append(Contender(path, path, "portable" if portable else "auto"))
            continue
        loaded = load(path, how, original if is_bundle(path) else None)
        if original is None and not is_bundle(path):
            original = path  # what later bundles were made from
        inputs = inputs or inputs_for(loaded, specs)
        contenders.append(Contender(path, loaded.module))
    if inputs is None and specs:
        inputs = parse(specs)
        say(f"Input: {inputs.said}")
    return contenders, inputs


def _cells(row: Row) -> tuple[str, ...]:
    times = (f"{ms:.2f}" for ms in (row.median, row.p90, row.p99))
    return (
        row.label,
        row.way,
        str(row.threads),
        str(row.batch),
        *times,
        f"{row.ratio:.2f} ({row.low:.2f}-{row.high:.2f})",
    )
