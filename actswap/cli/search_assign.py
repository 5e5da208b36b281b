"""`actswap search assign`: which activation at which site, under a budget of latency, parameters or FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actswap.cli.tune import read_config
from actswap.cli.verb import (
    MODEL_OPTIONS,
    SELECT_OPTIONS,
    Answer,
    ModelOptions,
    again,
    load,
    progress,
    say,
    table,
    verb,
)
from actswap.errors import UsageError

if TYPE_CHECKING:
    from actswap.search.assignment import Assigned, Assignment


@verb(
    click.argument("path", metavar="MODEL", type=click.Path()),
    click.option("--data", required=True, metavar="SOURCE", help="A folder with train/ and val/, or package:function."),
    click.option("--to", "targets", required=True, multiple=True, metavar="NAME", help="A choice; repeat it."),
    click.option("-o", "--output", required=True, type=click.Path(), metavar="OUT", help="Folder of the results."),
    MODEL_OPTIONS,
    SELECT_OPTIONS,
    click.option("--no-keep", is_flag=True, help="Every selected site must change."),
    click.option("--cost", type=click.Choice(["latency", "parameters", "flops"]), default="latency", show_default=True),
    click.option("--budget", type=float, help="Largest cost of all sites together: ms, parameters or FLOPs."),
    click.option("--trials", type=click.IntRange(1), default=32, show_default=True, help="Assignments to tune."),
    click.option(
        "--sampler", type=click.Choice(["evolution", "tpe", "random"]), default="evolution", show_default=True
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--size", type=click.IntRange(1), default=224, show_default=True, help="Image side, for a folder."),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the tuning: epochs=0.5."),
    click.option("--storage", metavar="URL", help="Journal or database; default OUT/assign.journal."),
    click.option("--no-bundles", is_flag=True, help="Write no bundle for each assignment of the front."),
)
def assign_command(
    path: str,
    data: str,
    targets: Sequence[str],
    output: str,
    how: ModelOptions,
    only: Sequence[str],
    skip: Sequence[str],
    no_keep: bool,
    cost: str,
    budget: float | None,
    trials: int,
    sampler: str,
    seed: int,
    size: int,
    settings: Sequence[str],
    storage: str | None,
    no_bundles: bool,
) -> Answer:
    """Choose an activation for every site of MODEL: the smallest validation loss for what it costs.

    The same command goes on with a search that was stopped.
    """
    import json
    from dataclasses import replace

    from actswap.io.atomic import replacing
    from actswap.search.assignment import (
        Assignment,
        costs_of,
        front_of,
        keep_costs,
        open_assignment,
        scan_of,
        tried_assignments,
        work_on_assignment,
    )
    from actswap.search.assignment_page import said, write_assignments
    from actswap.search.children import EXAMPLES, example_of
    from actswap.search.one_pass import one_pass_scores
    from actswap.search.site_costs import KEEP, UNITS, site_costs
    from actswap.search.storage import open_storage
    from actswap.select import select
    from actswap.train import load_data
    from actswap.train.data import training_batches

    config = read_config(settings, {}, "", False)
    images = load_data(data, size)
    if images.valid is None:
        raise UsageError(f"{data} has no validation part", fix="return train, valid from the data function")
    model = load(path, how).module.eval()
    found = scan_of(model, images)
    sites = tuple(s for s in select(found, list(only) or None, list(skip)) if s.how != "left")
    choices = tuple(dict.fromkeys(([] if no_keep else [KEEP]) + list(targets)))
    out = Path(output)
    out.mkdir(parents=True, exist_ok=True)
    opened = open_storage(storage or str(out / "assign.journal"))
    unit = UNITS[cost]
    with progress() as show:
        costs = costs_of(opened, "assign") or site_costs(sites, choices, cost, progress=show)
        batch = next(iter(training_batches(images.train, min(128, len(images.train)), 977, range(1), 0, 1, 0)))  # type: ignore[arg-type]
        scores = one_pass_scores(
            model, sites, choices, example_of(images, EXAMPLES), batch, images.loss, config.lr, found
        )
        search = Assignment(
            model, images, sites, choices, costs, replace(config, out=None), budget, scores, seed, found
        )
        say(f"{len(choices)} choices at {len(sites)} sites; results in {out}")
        study = open_assignment(search, sampler, opened)
        keep_costs(study, costs)
        work_on_assignment(study, search, trials, show)
    tried = tried_assignments(study)
    front = front_of(tried)
    bundles = [] if no_bundles else _bundles(search, front, out, path, how)
    answer: dict[str, Any] = {
        "cost": cost,
        "budget": budget,
        "sites": [site.name for site in sites],
        "choices": list(choices),
        "costs": [{"site": s, "choice": c, "cost": v, "score": scores[s, c]} for (s, c), v in costs.items()],
        "front": [{**one.to_dict(), "bundle": b} for one, b in zip(front, bundles or [None] * len(front), strict=True)],
        "tried": [one.to_dict() for one in tried],
    }
    with replacing(out / "front.json") as beside:
        beside.write_text(json.dumps({"schema": 1, **answer}, indent=1))
    write_assignments(tried, unit, {"schema": 1, **answer}, out / "report.html")
    say(f"Wrote {out / 'front.json'} and {out / 'report.html'}" + (f", {len(bundles)} bundles" if bundles else ""))
    rows = table("Front", "", "loss", "accuracy", unit, "activations", right=("loss", "accuracy", unit))
    for place, one in enumerate(front, 1):
        rows.add_row(place, f"{one.loss:.4f}", f"{one.score:.4f}", f"{one.cost:.4g}", said(one))
    shown: list[Any] = [rows]
    if front and front[-1].targets:
        rules = [word for site, target in front[-1].targets.items() for word in ("--to", f"{site}={target}")]
        shown.append(f"The last one, without its tuning: {again('actswap', 'convert', path, *rules, how=how)}")
    return Answer(answer, shown)


def _bundles(
    search: Assignment, front: Sequence[Assigned], out: Path, path: str, how: ModelOptions
) -> list[str | None]:
    """Tune each assignment of the front once more, to the same bits, and save it; one that keeps all is no bundle."""
    from actswap.io import base_note, bundle

    written: list[str | None] = []
    for place, one in enumerate(front, 1):
        if not one.targets:
            written.append(None)
            continue
        model, after = search.train(one.targets, one.trial)
        note = {"assignment": one.to_dict(), "tuning": {"after": after}}
        base = base_note.base_of(path, how.spec, how.key, how.prefix, how.drop)
        saved = bundle.save(model.cpu().eval(), out / f"bundle_{place}", base=base, report=note, overwrite=True)
        written.append(str(saved))
    return written


assign_command.name = "assign"
