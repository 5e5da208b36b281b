"""`actswap tune`: fine-tune a converted model and save it again as a bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from actswap.cli.verb import MODEL_OPTIONS, Answer, ModelOptions, again, for_bundle, load, progress, say, table, verb
from actswap.errors import UsageError


@verb(
    click.argument("path", metavar="BUNDLE", type=click.Path()),
    click.option(
        "--data", required=True, metavar="SOURCE", help="A folder with train/CLASS/*, or package.module:function."
    ),
    click.option(
        "-o", "--output", type=click.Path(), required=True, metavar="OUT", help="Folder: bundle, metrics, curve."
    ),
    MODEL_OPTIONS,
    click.option("--size", type=click.IntRange(1), default=224, show_default=True, help="Image side, for a folder."),
    click.option("--epochs", type=float, help="Passes over the training set."),
    click.option("--batch", type=int, help="Images per step, over all processes."),
    click.option("--lr", type=float, help="Largest learning rate."),
    click.option("--optimizer", type=click.Choice(["sgd", "adamw"])),
    click.option("--distill", type=float, metavar="SHARE", help="Weight of the original network's logits, 0 to 1."),
    click.option(
        "--train",
        metavar="LIST",
        help="What trains, with commas between: all (the default), activations, head, bias, norm, or names such as "
        "'layer4.*'. The rest is frozen.",
    ),
    click.option(
        "--head", metavar="[NAME=]N", help="Put a new head for N classes on the network first; NAME is its last layer."
    ),
    click.option(
        "--format",
        "form",
        type=click.Choice(["bundle", "adapter"]),
        default="bundle",
        show_default=True,
        help="adapter: the trained tensors alone.",
    ),
    click.option("--only-activations", is_flag=True, help="The same as --train activations."),
    click.option(
        "--on-divergence",
        type=click.Choice(["stop", "backoff", "ignore"]),
        help="If the loss or an activation explodes: stop (the default), or go back to the last good weights with "
        "a tenth of the activations' learning rates.",
    ),
    click.option("--seed", type=int),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting of TuneConfig, as TOML: ema=0.999."
    ),
    click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUT."),
)
def command(
    path: str,
    data: str,
    output: str,
    how: ModelOptions,
    size: int,
    head: str | None,
    form: str,
    only_activations: bool,
    settings: Sequence[str],
    resume: bool,
    **common: Any,
) -> Answer:
    """Fine-tune BUNDLE on images and labels.

    The same command runs on several processes or machines under torchrun, and goes on after a stop with --resume to
    the same numbers.
    """
    from actswap.conversion.head import new_head
    from actswap.conversion.passes.revert import revert
    from actswap.io import bundle, bundle_files
    from actswap.record import plan_of
    from actswap.train import load_data, tune
    from actswap.train.data import examples

    given = {key: value for key, value in common.items() if value is not None}
    if only_activations:
        if given.get("train", "activations") != "activations":
            raise UsageError("--only-activations and --train say different things", fix="--train alone")
        given["train"] = "activations"
    out = Path(output)
    if not resume and not (out / form).exists() and (out / "tune").is_dir():
        say(f"{out} holds an interrupted run: going on with it")
        resume = True
    config = read_config(settings, given, str(out / "tune"), resume)
    loaded = load(path, how)
    model = loaded.module
    if plan_of(model) is None:
        raise UsageError(f"{path} was not converted", fix=f"actswap convert {path} --to acon_c, then tune the result")
    if (out / form).exists() and not resume:
        raise UsageError(f"{out} holds another result", fix="--resume, or another -o OUT")
    if head is not None and config.needs_teacher:
        raise UsageError("--head and --distill", why="the original network has other classes", fix="one of the two")
    teacher = revert(model) if config.needs_teacher else None
    images = load_data(data, size)
    say(f"Data: {data}, {len(images.train)} training items")  # type: ignore[arg-type]
    if head is not None:
        name, classes = read_head(head)
        say(f"New head for {classes} classes: {new_head(model, classes, examples(images), name, config.seed)}")
    with progress() as report_progress:
        report = tune(model, images, config, teacher=teacher, progress=report_progress)
    if int(os.environ.get("RANK", "0")) != 0:
        click.get_current_context().exit(0)  # of several processes the first one writes and answers
    note = {**bundle_files.read(path).get("report", {}), "tuning": report.to_dict()}
    source = bundle_files.read_base(path)
    saved = bundle.save(
        model.cpu().eval(), out / form, base=source, report=note, overwrite=resume, only_trained=form == "adapter"
    )
    names = ", ".join(Path(file).name for file in report.files)
    say(f"Wrote {saved} and {names} in {out / 'tune'}")
    say("Next: " + again("actswap", "report", str(saved), how=for_bundle(how, saved, path)))
    shown = [scores(report.before, report.after), f"{report.steps} steps, {report.trained:,} parameters"]
    shown += [
        f"Diverged at step {entry['step']} in {entry['module']}: went back to step {entry['to']} with a tenth of the "
        "activations' learning rates"
        for entry in report.backoffs
    ]
    return Answer({**report.to_dict(), "bundle": str(saved)}, shown)


def read_head(text: str) -> tuple[str, int]:
    """Read `--head`: the name of the layer, "" if it is to be found, and the number of classes.

    >>> read_head("10"), read_head("classifier.1=10")
    (('', 10), ('classifier.1', 10))
    """
    name, _, number = text.rpartition("=")
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"--head {text}", why="needs a number of classes", fix="--head 10, or --head fc=10")
    return name, int(number)


def read_config(settings: Sequence[str], given: dict[str, Any], out: str, resume: bool) -> Any:
    """Build the TuneConfig from `--set` texts and options; all problems are named at once.

    Raises:
        UsageError: a setting is unknown, of the wrong type or out of range.
    """
    from actswap.recipe.recipe import override
    from actswap.recipe.schema import read_table
    from actswap.train import TuneConfig

    problems: list[str] = []
    document: dict[str, Any] = {}
    for text in settings:
        override(document, text, problems)
    config = read_table(TuneConfig, {**document, **given, "out": out, "resume": resume}, "", problems)
    if config is not None:
        problems += config.problems()
    if config is None or problems:
        raise UsageError("cannot fine-tune with these settings", why="; ".join(problems), fix="actswap tune --help")
    return config


def scores(before: Any, after: Any) -> Any:
    """Return losses and scores before and after as a table."""
    rows = table("", "validation", "before", "after", right=("before", "after"))
    for key, name, scale in (("loss", "loss", 1.0), ("score", "accuracy, %", 100.0)):
        if key in before and key in after:
            rows.add_row(name, f"{scale * before[key]:.4g}", f"{scale * after[key]:.4g}")
    return rows
