"""`actswap run`: a recipe from the model to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from actswap.cli.convert import report_tables
from actswap.cli.verb import Answer, progress, say, table, verb


@verb(
    click.argument("recipe", metavar="RECIPE", type=click.Path()),
    click.option(
        "-o", "--output", type=click.Path(), metavar="OUT", help="Folder of the results; default the recipe's name."
    ),
    click.option("--data", metavar="SOURCE", help="A folder with train/CLASS/*, or package.module:function."),
    click.option("--weights", type=click.Path(), metavar="FILE", help="Weights of the recipe's network."),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a value: tune.epochs=5."),
    click.option(
        "--allow", multiple=True, metavar="PACKAGE", help="Let the recipe run code of a package: its model, its data."
    ),
    click.option("--resume", is_flag=True, help="Go on with an interrupted run in OUT."),
    click.option("--dry-run", is_flag=True, help="Check everything, write nothing."),
)
def command(
    recipe: str,
    output: str | None,
    data: str | None,
    weights: str | None,
    settings: Sequence[str],
    allow: Sequence[str],
    resume: bool,
    dry_run: bool,
) -> Answer:
    """Convert, fine-tune, save, export and report as RECIPE says.

    Everything is checked before anything starts, and all problems are listed at once.
    """
    import json

    from actswap.recipe import prepare, read_recipe, run_recipe, to_dict

    named = {"data.source": data, "model.weights": weights}
    given = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    read = read_recipe(recipe, [*settings, *given], allow=allow)
    out = Path(output or Path(recipe).stem)
    if not resume and is_interrupted(out):
        say(f"{out} holds an interrupted run: going on with it")
        resume = True
    ready = prepare(read, out, resume=resume, name=recipe, allow=allow)
    rules = read.convert.targets
    asked = ", ".join(f"{key}={target}" for key, target in rules.items()) if rules else read.convert.target
    say(f"{read.title}: {type(ready.model).__name__} to {asked}, results in {out}")
    if dry_run:
        say("Dry run: nothing was written.")
        return Answer({"recipe": to_dict(read), "dry_run": True}, [f"{recipe}: no problems found"])
    with progress() as report_progress:
        report = run_recipe(ready, resume=resume, progress=report_progress)
    if not report.files:
        click.get_current_context().exit(0)  # of several processes the first one writes and answers
    shown = report_tables(report.conversion.report.to_dict())
    if report.accuracy:
        rows = table("", "network", "accuracy, %", right=("accuracy, %",))
        for name, value in report.accuracy.items():
            rows.add_row(name, f"{value:.2f}")
        shown.append(rows)
    say("Wrote " + ", ".join(report.files.values()))
    return Answer({"recipe": to_dict(read), "dry_run": False, **report.to_dict()}, shown)


_WRITTEN = {"tune", "bundle", "model.onnx", "report.html"}


def is_interrupted(out: Path) -> bool:
    """True for a folder that a run of a recipe began to fill and did not finish: it has no result yet."""
    if not out.is_dir() or (out / "result.json").exists():
        return False
    names = {entry.name for entry in out.iterdir() if not entry.name.startswith(".actswap-")}
    return all(name in _WRITTEN or name.startswith("model.onnx.") for name in names)


def show_recipe(path: str) -> Answer:
    """Show what a recipe file does; data that the user has to name may be missing."""
    from actswap.recipe import read_recipe, to_dict

    data = to_dict(read_recipe(path, ready=False))
    shown: list[Any] = [f"{path}: {data['title']}", *(data[key] for key in ("paper", "notes") if data[key])]
    rows = table("", "setting", "value")
    for section in ("model", "data", "convert", "calibrate", "tune", "export"):
        for name, value in _settings(section, data[section] or {}):
            rows.add_row(name, value)
    shown.append(rows)
    if data["measured"]:
        results = table("", "measured", "what", "before", "after", "note", right=("before", "after"))
        for entry in data["measured"]:
            scores = ("-" if entry[key] is None else f"{entry[key]:g}" for key in ("before", "after"))
            results.add_row(entry["date"], entry["what"], *scores, entry["note"])
        shown.append(results)
    return Answer({"recipe": data}, shown)


def _settings(section: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of a table that say something: empty and absent ones are left out."""
    return [
        (f"{section}.{key}", str(value)) for key, value in values.items() if value not in (None, "", (), [], {}, False)
    ]
