"""`actswap quantize`: an 8-bit ONNX file that keeps its trained activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from actswap.cli.convert import number
from actswap.cli.convert_onnx import read_feeds
from actswap.cli.verb import FORCE_OPTION, Answer, progress, say, table, verb
from actswap.io.atomic import refuse_overwrite


@verb(
    click.argument("path", metavar="MODEL.onnx", type=click.Path()),
    click.option("-o", "--output", type=click.Path(), metavar="OUT", help="The file; default MODEL.int8.onnx."),
    click.option(
        "--calibration",
        type=click.Path(),
        required=True,
        metavar="FILE.npz",
        help="Real inputs by name.",
    ),
    click.option("--per-channel", is_flag=True, help="One scale for each output channel of the weights."),
    click.option(
        "--method",
        type=click.Choice(["minmax", "entropy", "percentile"]),
        default="minmax",
        show_default=True,
        help="How ranges become scales.",
    ),
    click.option(
        "--tables/--no-tables",
        default=True,
        show_default=True,
        help="Integers throughout; without, activations stay in float32, which ONNX Runtime's CPU runs faster.",
    ),
    FORCE_OPTION,
)
def command(
    path: str, output: str | None, calibration: str, per_channel: bool, method: str, tables: bool, force: bool
) -> Answer:
    """Quantise an ONNX file with ONNX Runtime's quantiser; activations become tables of 256 entries.

    Do not give the runtime's pre-processing or a decomposed file to a quantiser: it would round the steps of an
    activation's formula one by one.
    """
    out = Path(output) if output else Path(path).with_suffix(".int8.onnx")
    refuse_overwrite(out, overwrite=force, source=path)
    feeds = read_feeds(calibration)
    from actswap.onnx.quantize import quantize

    with progress() as update:
        report = quantize(
            path,
            out,
            feeds or [],
            per_channel=per_channel,
            method=method,
            tables=tables,
            overwrite=force,
            progress=update,
        )
    rows = table("", "activation", "8-bit form", "sets of 256 entries", right=("sets of 256 entries",))
    for made in report.tables:
        rows.add_row(made.site, "table", str(made.sets))
    lines: list[Any] = [rows, *(f"left {name}: {reason}" for name, reason in report.left.items())]
    worst = max((p.relative for p in report.parity), default=None)
    lines.append(f"{out}: {report.bytes / 1e6:.2f} MB; differs by {number(worst)} relative on the calibration inputs")
    say("Measure the accuracy on data with labels: the difference above says little about it.")
    return Answer({"output": str(out), "report": report.to_dict()}, lines)
