"""`actswap convert`: replace activations, prove the result, save it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from actswap.cli.verb import (
    FORCE_OPTION,
    INPUT_OPTION,
    MODEL_OPTIONS,
    SEED_OPTION,
    SELECT_OPTIONS,
    TARGET_OPTION,
    TOLERANCE_OPTION,
    Answer,
    ModelOptions,
    again,
    for_bundle,
    inputs_for,
    inputs_of,
    key_values,
    load,
    progress,
    say,
    table,
    verb,
)
from actswap.errors import UsageError
from actswap.io.atomic import refuse_overwrite
from actswap.sites import STARTS


@verb(
    click.argument("path", metavar="MODEL", type=click.Path()),
    TARGET_OPTION,
    click.option(
        "-o",
        "--output",
        type=click.Path(),
        metavar="OUT",
        help="Output path; the default is MODEL.NAME beside MODEL.",
    ),
    MODEL_OPTIONS,
    INPUT_OPTION,
    SELECT_OPTIONS,
    click.option(
        "--start", type=click.Choice(STARTS), default="auto", show_default=True, help="How the targets begin."
    ),
    TOLERANCE_OPTION,
    click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the target: space=layer."),
    click.option(
        "--calibration",
        type=click.Path(),
        metavar="FILE",
        help="Real inputs (.npz, .pt) for fits and search.",
    ),
    click.option("--format", "form", type=click.Choice(["bundle", "pt2"]), default="bundle", show_default=True),
    click.option("--decompose", is_flag=True, help="With pt2: operators of PyTorch alone; the file needs no actswap."),
    click.option("--dry-run", is_flag=True, help="Show the same table, write nothing."),
    SEED_OPTION,
    FORCE_OPTION,
)
def command(
    path: str,
    targets: tuple[str, ...],
    output: str | None,
    how: ModelOptions,
    specs: tuple[str, ...],
    only: tuple[str, ...],
    skip: tuple[str, ...],
    start: str,
    tolerance: float,
    options: tuple[str, ...],
    calibration: str | None,
    form: str,
    decompose: bool,
    dry_run: bool,
    seed: int,
    force: bool,
) -> Answer:
    """Replace the activations of MODEL by trainable ones that begin as the same function.

    The converted model is compared with the original before anything is written: a failed check exits with 1
    and leaves no file.
    """
    if path.endswith(".onnx"):
        from actswap.cli.convert_onnx import convert_file

        refused = {
            "--only": only,
            "--skip": skip,
            "--model": how.spec,
            "--format": form != "bundle",
            "--dry-run": dry_run,
        }
        refused |= {"--decompose": decompose, "--start": start != "auto", "--input": specs}
        refused |= {"--to SELECTOR=NAME": not isinstance(targets_of(targets), str)}
        return convert_file(path, targets[0], output, tolerance, key_values(options), calibration, refused, force)
    if decompose and form != "pt2":
        raise UsageError("--decompose is for an exported program", fix="--format pt2 --decompose")
    began = time.monotonic()
    target = targets_of(targets)
    out = Path(output) if output else default_output(path, target, form)
    if not dry_run:
        refuse_overwrite(out, overwrite=force, source=(path, *inputs_of(path, how.base)))
    loaded = load(path, how)
    inputs = inputs_for(loaded, specs)

    from actswap.checks.cost import measure
    from actswap.conversion.pipeline import convert

    before = measure(loaded.module, inputs.args, inputs.kwargs)
    with progress() as update:
        result = convert(
            loaded.module,
            target,
            inputs.args,
            inputs.kwargs or None,
            only=list(only) or None,
            skip=list(skip) or None,
            start=start,
            tolerance=tolerance,
            calibration=read_calibration(calibration),
            options=key_values(options),
            seed=seed,
            progress=update,
        )
    after = measure(result.model, inputs.args, inputs.kwargs)
    report = result.report.to_dict()
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in report["seconds"].items())
    say(f"Time: {steps}" + (f"; memory at most {report['peak_bytes'] / 1e6:,.0f} MB" if report["peak_bytes"] else ""))
    shown = [*report_tables(report), cost_table(before.to_dict(), after.to_dict())]
    data = {
        "model": type(loaded.module).__name__,
        "input": inputs.said,
        "assumed_input": inputs.assumed,
        "target": report["target"],
        "report": report,
        "cost": {"before": before.to_dict(), "after": after.to_dict()},
        "dry_run": dry_run,
        "output": None,
    }
    if dry_run:
        say("Dry run: nothing was written.")
        return Answer(data, shown)
    written = save(result.model, out, form, path, how, data, inputs.args, inputs.kwargs, force, decompose)
    data["output"] = str(written)
    say(f"Wrote {written} ({size(written)}) in {time.monotonic() - began:.1f} s")
    opened = for_bundle(how, written, path) if form == "bundle" else ModelOptions()
    say("Next: " + again("actswap", "export", str(written), how=opened, specs=specs))
    return Answer(data, shown)


def targets_of(texts: Sequence[str]) -> str | dict[str, str]:
    """Read the `--to` texts: one target, or targets by selector. A target without a selector is for all other sites.

    >>> targets_of(["layer4.*=meta_acon(space=layer)", "acon_c"])
    {'layer4.*': 'meta_acon(space=layer)', '*': 'acon_c'}
    """
    from actswap.conversion.rules import split_rule

    rules = [split_rule(text) for text in texts]
    if len(rules) == 1 and not rules[0][0]:
        return rules[0][1]
    found: dict[str, str] = {}
    for selector, target in rules:
        if (selector or "*") in found:
            raise UsageError(
                f"two targets for {selector or 'all other sites'}: {found[selector or '*']} and {target}",
                fix=f"--to 'SELECTOR={target}' says which sites it is for",
            )
        found[selector or "*"] = target
    return found


def default_output(path: str, target: str | dict[str, str], form: str) -> Path:
    """Return `squeezenet.meta_acon` for `squeezenet.pt`."""
    from actswap.conversion.rules import read_target

    texts = [target] if isinstance(target, str) else target.values()
    name = "+".join(dict.fromkeys(read_target(text)[0] for text in texts))
    source = Path(path)
    stem = source.absolute().name if source.is_dir() else source.name.removesuffix(".index.json")
    stem = stem if source.is_dir() else Path(stem).stem
    return source.parent / f"{stem}.{name}{'.pt2' if form == 'pt2' else ''}"


def read_calibration(path: str | None) -> Any:
    """Read calibration inputs as a list of batches."""
    if path is None:
        return None
    from actswap.inputs import read_file

    found = read_file(path)
    say(f"Calibration: {found.said}")
    return [found.args or found.kwargs]


def save(
    model: Any,
    out: Path,
    form: str,
    path: str,
    how: ModelOptions,
    data: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    force: bool,
    decompose: bool,
) -> Path:
    """Write the bundle or the exported program."""
    from actswap.cli.verb import finite
    from actswap.io import base_note, bundle, bundle_files

    if form == "pt2":
        from actswap.io.save_exported import save_pt2

        return save_pt2(model, out, args, kwargs, decompose=decompose, overwrite=force)
    base = (
        bundle_files.read_base(path)
        if bundle.is_bundle(path)
        else base_note.base_of(path, how.spec, how.key, how.prefix, how.drop)
    )
    note = finite({key: data[key] for key in ("input", "target", "report", "cost")})
    return bundle.save(model, out, base=base, report=note, overwrite=force)


def report_tables(report: dict[str, Any]) -> list[Any]:
    """Return what a conversion did, as tables and lines."""
    rows = table(
        "",
        "site",
        "source",
        "target",
        "channels",
        "start",
        "beta",
        "bound",
        "error",
        right=("beta", "bound", "error"),
    )
    for entry in report["replaced"]:
        site = entry["site"]
        rows.add_row(
            site["name"],
            site["source"]["kind"],
            entry["target"],
            str(site["channels"] or "per layer"),
            entry["start"],
            *(number(entry.get(key)) for key in ("beta", "bound", "error")),
        )
    shown: list[Any] = [rows]
    reasons: dict[str, list[str]] = {}
    for entry in report["left"]:
        reasons.setdefault(entry["reason"], []).append(entry["site"]["name"])
    for reason, names in reasons.items():
        few = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        shown.append(f"left ({reason}): {few}")
    if report.get("proof"):  # bundles of earlier versions have none
        shown.append(proof_table(report["proof"]))
    shown.append(verdict(report))
    return shown


def proof_table(proof: dict[str, Any]) -> Any:
    """Return the checks of a proof as a table."""
    rows = table("", "check", "result", "error", "limit", "what was found", right=("error", "limit"))
    words = {True: "passed", False: "FAILED", None: "not proved"}
    for check in proof["checks"]:
        figures = (number(check[key]) for key in ("error", "limit"))
        rows.add_row(check["name"], words[check["passed"]], *figures, check["said"])
    return rows


def verdict(report: dict[str, Any]) -> str:
    """Return one line: what was replaced, the census, the parity."""
    text = f"{len(report['replaced'])} sites replaced, {len(report['left'])} left"
    if census := report.get("census"):
        text += "; census complete" if census.get("complete") else "; census INCOMPLETE"
    if parity := report.get("parity"):
        text += f"; outputs differ by {number(parity['rel'])} of what they vary by"
        if report.get("tolerance"):
            text += f" (tolerance {number(report['tolerance'])})"
        if parity.get("rel_to_size") is not None:  # bundles of earlier versions do not have it
            text += f", {number(parity['rel_to_size'])} of their size"
        if parity.get("note"):
            text += f" ({parity['note']})"
        if parity.get("top1_agreement") is not None:
            text += f", top-1 agreement {parity['top1_agreement']:.0%}"
    return text


def cost_table(before: dict[str, Any], after: dict[str, Any]) -> Any:
    """Return parameters, FLOPs and activations before and after."""
    rows = table("", "cost of one run", "before", "after", "change", right=("before", "after", "change"))
    for key in ("parameters", "flops", "activations"):
        old, new = before[key], after[key]
        if old is None or new is None:
            rows.add_row(key, "-", "-", before["note"] or after["note"])
        else:
            rows.add_row(key, f"{old:,}", f"{new:,}", f"{(new - old) / old:+.2%}" if old else "")
    return rows


def number(value: Any) -> str:
    """Return a short number, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def size(path: Path) -> str:
    """Return the size of a file or folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return f"{sum(f.stat().st_size for f in files) / 1e6:.2f} MB"
