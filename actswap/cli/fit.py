"""`actswap fit`: how a start follows its source, in numbers and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actswap.cli.verb import Answer, key_values, say, table, verb
from actswap.errors import UsageError

if TYPE_CHECKING:
    from actswap.plan import Choice


@verb(
    click.argument("source", metavar="SOURCE|BUNDLE"),
    click.option("--to", "target", metavar="TARGET", help="The activation that starts at SOURCE."),
    click.option("--range", "span", type=float, nargs=2, default=(-5.0, 5.0), show_default=True, metavar="LO HI"),
    click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the target; repeatable."),
    click.option("--minimax", is_flag=True, help="Padé targets: make the largest error small, not the mean square."),
    click.option("--plot", type=click.Path(), help="Write the picture here; for a BUNDLE a folder, one per site."),
)
def command(
    source: str,
    target: str | None,
    span: tuple[float, float],
    options: tuple[str, ...],
    minimax: bool,
    plot: str | None,
) -> Answer:
    """Show the start of TARGET for SOURCE over a range, or the starts of all sites of a BUNDLE.

    Beside the errors: the slopes that an ACON can have, or the coefficients and poles of a Padé unit.
    """
    from actswap.activations.describe import describe, sentence
    from actswap.conversion.passes.replace import build
    from actswap.report.fitted import curves, draw

    if Path(source).is_dir():
        from actswap.io import bundle_files
        from actswap.plan import Plan

        choices = list(Plan.from_dict(bundle_files.read(source)["plan"]).choices)
        files = [Path(plot) / f"{i:03d}-{c.site.name}.png" for i, c in enumerate(choices)] if plot else []
        if plot:
            Path(plot).mkdir(parents=True, exist_ok=True)
    else:
        if target is None:
            raise UsageError("no target given", fix=f"actswap fit {source} --to pau")
        choices = [_choice(source, target, span, key_values(options), minimax)]
        files = [Path(plot)] if plot else []
    rows = table("", "site", "source", "target", "start", "bound", "max error", "rms error")
    entries, units = [], []
    for choice in choices:
        start = choice.start
        shown = ["-" if v is None else f"{v:.3g}" for v in (start.bound, start.error, start.rms)]
        rows.add_row(choice.site.name, str(choice.site.source), choice.target, start.kind, *shown)
        unit = describe(build(choice))
        if line := sentence(unit):
            units.append(f"{choice.site.name}: {line}")
        entries.append({"site": choice.site.name, "source": str(choice.site.source), **vars(start), "unit": unit})
    for choice, file in zip(choices, files, strict=False):
        draw(curves(choice), file)
        say(f"Wrote {file}")
    return Answer({"fits": entries, "pictures": [str(f) for f in files]}, [rows, *units])


def _choice(kind: str, target: str, span: tuple[float, float], options: dict[str, Any], minimax: bool) -> Choice:
    """A choice for one free-standing activation over an assumed range."""
    from actswap import activations
    from actswap.activations.base import StartContext
    from actswap.activations.bounded import split
    from actswap.activations.plain import PLAIN
    from actswap.fit.histogram import Histogram
    from actswap.plan import Choice
    from actswap.sites import Site, Source, Start

    if kind not in PLAIN:
        raise UsageError(
            f"{kind!r} is neither an activation nor a bundle",
            why=f"known sources: {', '.join(PLAIN)}",
            fix="actswap fit gelu --to pau --plot gelu.png",
        )
    if not span[0] < span[1]:
        raise UsageError(f"--range {span[0]:g} {span[1]:g} is empty", fix="--range -5 5")
    source, spec = Source.of(kind, **PLAIN[kind].constants), activations.get(target)
    histogram = Histogram.uniform(*span)
    spec.check_options(options)
    if minimax and target not in ("pau", "opau", "hp1", "hp2"):
        raise UsageError(f"--minimax does not apply to {target}", why="it fits Padé units", fix="--to pau")
    core, shift, _ = split(source)
    if spec.promise(core) == "none":
        start = Start("morph", bound=0.0, note="no start of its own")
    else:
        start = spec.start(core, StartContext(100.0, histogram.shifted(-shift), options, minimax))
    site = Site(kind, source, "activation", "module", "", "swap")
    return Choice(site, target, start, kind, options, histogram)
