"""`actswap search report`: what searches have found, as a table, JSON lines and an HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from actswap.cli.verb import FORCE_OPTION, Answer, say, table, verb

_SHOWN = 15


@verb(
    click.option("--storage", required=True, metavar="URL", help="Where the searches are kept."),
    click.option("--name", "names", multiple=True, metavar="NAME", help="A search; repeat it to compare several."),
    click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write an HTML file."),
    click.option("--lines", type=click.Path(), metavar="FILE", help="Write every trial as one line of JSON."),
    click.option("--top", type=click.IntRange(1), default=_SHOWN, show_default=True, help="Functions to show."),
    FORCE_OPTION,
)
def report_command(
    storage: str, names: Sequence[str], output: str | None, lines: str | None, top: int, force: bool
) -> Answer:
    """Show the best functions, the best score over the trials, and score against cost.

    Several searches of one storage are compared: --name controller --name random.
    """
    import optuna

    from actswap.io.atomic import refuse_overwrite, replacing
    from actswap.search.page import Searched, gather_search, lines_of, write_search_page
    from actswap.search.storage import open_storage
    from actswap.search.study import document_of

    opened = open_storage(storage)
    assert opened is not None
    searches: list[Searched] = []
    for name in names or ("search",):
        document = document_of(opened, name)
        searches.append(gather_search(name, document, optuna.load_study(study_name=name, storage=opened)))
    for path in (output, lines):
        if path is not None:
            refuse_overwrite(Path(path), overwrite=force, source=storage)
    written = []
    if lines is not None:
        with replacing(lines) as beside:
            beside.write_text(lines_of(searches), encoding="utf-8")
        written.append(lines)
    if output is not None:
        write_search_page(searches, output, top)
        written.append(output)
    if written:
        say("Wrote " + ", ".join(written))
    shown = []
    for one in searches:
        rows_of = table(
            f"{one.name}: {one.said}", "rank", "score", "FLOPs", "function", "state", right=("rank", "score")
        )
        for rank, found in enumerate(one.ranking[:top], 1):
            rows_of.add_row(rank, f"{found.score:.4f}", one.flops[found.expression], found.expression, found.state)
        shown.append(rows_of)
    return Answer({"searches": [one.to_dict() for one in searches], "files": written}, shown)


report_command.name = "report"
