"""`actswap convert model.onnx`: the same job on an ONNX file, on the graph itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actswap.cli.verb import Answer, progress, say, table
from actswap.errors import UsageError
from actswap.io.atomic import refuse_overwrite


def convert_file(
    path: str,
    target: str,
    output: str | None,
    tolerance: float,
    options: dict[str, Any],
    calibration: str | None,
    refused: dict[str, Any],
    force: bool,
) -> Answer:
    """Replace the static activations of an ONNX file; `refused` holds what only works on PyTorch models."""
    given = [name for name, value in refused.items() if value]
    if given:
        raise UsageError(
            f"{', '.join(given)} cannot be used on an ONNX file",
            why="its graph has no modules to select and no training modes",
            fix=f"actswap convert {path} --to {target} [-o OUT.onnx] [--calibration INPUTS.npz]",
        )
    out = Path(output) if output else Path(path).with_suffix(f".{target}.onnx")
    refuse_overwrite(out, overwrite=force, source=path)
    from actswap.onnx.conversion import convert

    with progress() as update:
        report = convert(
            path,
            target,
            out,
            calibration=read_feeds(calibration),
            tolerance=tolerance,
            options=options,
            overwrite=force,
            progress=update,
        )
    rows = table("", "site", "source", "start", "bound or error")
    for name, source, start, error in report.replaced:
        rows.add_row(name, source, start, "-" if error is None else f"{error:.3g}")
    lines: list[Any] = [rows, *(f"left {name}: {reason}" for name, reason in report.left.items())]
    worst = max((p.relative for p in report.parity), default=0.0)
    lines.append(f"{len(report.replaced)} replaced; outputs agree to {worst:.2e} relative (tolerance {tolerance:g})")
    say(f"Wrote {out}")
    return Answer({"target": target, "report": report.to_dict(), "output": str(out)}, lines)


def read_feeds(path: str | None) -> list[dict[str, Any]] | None:
    """Read inputs by name from an .npz file."""
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return [{name: file[name] for name in file.files}]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as .npz", why=str(error), fix="np.savez(path, input=array)") from error
