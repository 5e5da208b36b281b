"""`actswap report`: a converted model as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from actswap.cli.verb import (
    FORCE_OPTION,
    INPUT_OPTION,
    MODEL_OPTIONS,
    Answer,
    ModelOptions,
    inputs_for,
    load,
    say,
    verb,
)
from actswap.errors import UsageError


@verb(
    click.argument("path", metavar="BUNDLE", type=click.Path()),
    click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Default: BUNDLE.html beside it."),
    MODEL_OPTIONS,
    INPUT_OPTION,
    click.option("--accuracy", multiple=True, metavar="NAME=PERCENT", help="Scores to show: original=91.98."),
    click.option("--title", help="Heading; default the class of the model."),
    FORCE_OPTION,
)
def command(
    path: str,
    output: str | None,
    how: ModelOptions,
    specs: Sequence[str],
    accuracy: Sequence[str],
    title: str | None,
    force: bool,
) -> Answer:
    """Write what BUNDLE is, what it costs and how its activations look, as one file that needs nothing else.

    Give real inputs (--input photos.npz): the pictures show what happens on them.
    """
    from actswap.conversion.passes.revert import revert
    from actswap.io import bundle_files
    from actswap.io.atomic import refuse_overwrite
    from actswap.record import plan_of
    from actswap.report import gather, summary, write_report

    out = Path(output or f"{path.rstrip('/')}.html")
    refuse_overwrite(out, overwrite=force, source=path)
    shown = percentages(accuracy)
    loaded = load(path, how)
    model = loaded.module
    plan = plan_of(model)
    if plan is None:
        raise UsageError(f"{path} was not converted", fix=f"actswap convert {path} --to acon_c, then report the result")
    inputs = inputs_for(loaded, specs)
    note = bundle_files.read(path).get("report") or {}
    tuning = note.get("tuning") or {}
    for name, key in (("at conversion", "before"), ("after fine-tuning", "after")):
        if "score" in tuning.get(key, {}):
            shown.setdefault(name, 100 * tuning[key]["score"])
    said = f"Inputs: {inputs.said}."
    facts = gather(
        model,
        plan,
        inputs.args,
        inputs.kwargs,
        original=revert(model),
        title=title or type(model).__name__,
        parity=(note.get("report") or note).get("parity"),
        proof=(note.get("report") or note).get("proof"),
        accuracy=shown,
        notes=[said],
    )
    write_report(facts, out)
    say(f"Wrote {out} ({out.stat().st_size / 1e3:.0f} kB)")
    return Answer({**summary(facts), "output": str(out)}, [f"{out}: {len(facts.sites)} sites, {len(facts.left)} left"])


def percentages(texts: Sequence[str]) -> dict[str, float]:
    """Read `name=91.5` texts.

    Raises:
        UsageError: a text is not of that form.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--accuracy {text!r} is not understood", fix="--accuracy original=91.98")
    return found
