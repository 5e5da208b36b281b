"""`actswap search`: search for activation functions; work on a search from any machine; report what was found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actswap.cli.search_assign import assign_command
from actswap.cli.search_report import report_command
from actswap.cli.verb import Answer, progress, say, table, verb

if TYPE_CHECKING:
    from optuna.study import Study

    from actswap.search.tables import SearchFile

_SHOWN = 15  # of the best functions, on a terminal
STORAGE_HELP = "A journal file, sqlite:///search.db, postgresql://HOST/NAME, or grpc://HOST:PORT."
_ALLOW = click.option(
    "--allow", multiple=True, metavar="PACKAGE", help="Let the search run code of a package: its network, its data."
)
_DATA = click.option("--data", metavar="SOURCE", help="A folder with train/ and val/, or package.module:function.")


class Search(click.Group):
    """A group whose first argument is a subcommand, or the file of a search."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Take what is no subcommand as the arguments of a search."""
        if args and args[0] not in self.commands:
            return super().resolve_command(ctx, ["start", *args])
        return super().resolve_command(ctx, args)


@click.group(
    "search",
    cls=Search,
    subcommand_metavar="SPACE.toml | worker | report | assign [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": False},
)
def command() -> None:
    r"""Search for activation functions as in Ramachandran et al. 2017: train a child network with each.

    \b
    actswap search SPACE.toml --data SOURCE      begins a search, or goes on with it
    actswap search worker --storage URL          works on a search from another machine
    actswap search report --storage URL          shows what was found
    actswap search assign MODEL --data SOURCE    chooses an activation for every site
    """


@verb(
    click.argument("file", metavar="SPACE.toml", type=click.Path()),
    _DATA,
    click.option("--storage", metavar="URL", help=f"{STORAGE_HELP} Default: SPACE.journal in the current folder."),
    click.option("--name", default="search", show_default=True, help="Of the search in the storage."),
    click.option("--trials", type=click.IntRange(1), metavar="N", help="How many functions there are to be in all."),
    click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes on this machine."),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Replace a value: search.seed=1."),
    _ALLOW,
    click.option("--dry-run", is_flag=True, help="Check everything, train nothing."),
)
def start(
    file: str,
    data: str | None,
    storage: str | None,
    name: str,
    trials: int | None,
    workers: int,
    settings: Sequence[str],
    allow: Sequence[str],
    dry_run: bool,
) -> Answer:
    """Begin the search that SPACE.toml describes, or go on with it: the same command resumes after any stop.

    With several GPUs, start one worker for each: CUDA_VISIBLE_DEVICES=1 actswap search worker --storage URL.
    """
    import json

    from actswap.search.children import prepare_children
    from actswap.search.file import read_search
    from actswap.search.storage import open_storage
    from actswap.search.study import open_study, work

    given = {"data.source": json.dumps(data) if data else None, "search.trials": trials}
    read = read_search(file, [*settings, *(f"{key}={value}" for key, value in given.items() if value)], allow)
    children = prepare_children(read, allow=tuple(allow))
    url = storage or f"{Path(file).stem}.journal"
    say(f"{describe(read)}; {len(children.data.train)} training items")  # type: ignore[arg-type]
    if dry_run:
        say("Dry run: nothing was trained.")
        return Answer({"search": read.to_dict(), "dry_run": True}, [f"{file}: no problems found"])
    study = open_study(read.space, read.search, open_storage(url), name, read.to_dict())
    say(f"Search {name!r} in {url}. Interrupt it at any time; the same command goes on.")
    with _others(workers - 1, ["--storage", url, "--name", name], read, allow), progress() as show:
        work(study, read.space, children, read.search.trials, show, read.child.rungs)
    return answer(study, read, url, name)


@verb(
    click.option("--storage", required=True, metavar="URL", help=STORAGE_HELP),
    click.option("--name", default="search", show_default=True, help="Of the search in the storage."),
    _DATA,
    _ALLOW,
)
def worker(storage: str, name: str, data: str | None, allow: Sequence[str]) -> Answer:
    """Work on a search that another machine began; everything but the data comes from the storage.

    The storage says what code is run, so that needs your word: --allow PACKAGE, or --data of your own.
    """
    from actswap.search.children import prepare_children
    from actswap.search.file import read_document
    from actswap.search.storage import open_storage
    from actswap.search.study import document_of, open_study, work

    opened = open_storage(storage)
    assert opened is not None
    document = document_of(opened, name)
    if data:
        document["data"] = {**document.get("data", {}), "source": data}
    trusted = ["data.source"] if data else []
    read = read_document(document, storage, f"actswap search worker --storage {storage}", allow, trusted)
    children = prepare_children(read, allow=tuple(allow))
    say(f"{describe(read)}; working on {name!r} in {storage}")
    study = open_study(read.space, read.search, opened, name, read.to_dict())
    with progress() as show:
        work(study, read.space, children, read.search.trials, show, read.child.rungs)
    return answer(study, read, storage, name)


def describe(read: SearchFile) -> str:
    """Return what is searched, in one line."""
    how, child = read.search, read.child
    kind = "from scratch" if child.from_scratch else "pretrained"
    units = "1 unit" if read.space.units == 1 else f"{read.space.units} units"
    return f"{how.sampler} search for {how.trials} of {read.space.size:,} points ({units}); {child.network}, {kind}"


def answer(study: Study, read: SearchFile, url: str, name: str) -> Answer:
    """Return what a search has found so far, the best first."""
    from actswap.search.results import ranking, tried

    found, all_of_them = ranking(study), tried(study)
    rows = table(f"Best of {len(found)} functions", "rank", "score", "function", "state", right=("rank", "score"))
    for rank, one in enumerate(found[:_SHOWN], 1):
        rows.add_row(rank, f"{one.score:.4f}", one.expression, one.state)
    failed = sum(one.state == "failed" for one in found)
    said = f"{len(all_of_them)} trials, {len(found)} functions, {failed} failed"
    say(f"Next: actswap search report --storage {url}" + (f" --name {name}" if name != "search" else ""))
    data = {
        "search": read.to_dict(),
        "storage": url,
        "name": name,
        "trials": len(all_of_them),
        "failed": failed,
        "ranking": [one.to_dict() for one in found],
    }
    return Answer(data, [rows, said])


@contextmanager
def _others(count: int, arguments: list[str], read: SearchFile, allow: Sequence[str]) -> Iterator[None]:
    """Run more workers as processes of their own while the block runs, and until they have ended."""
    line = [sys.executable, "-m", "actswap.cli", "search", "worker", *arguments, "--data", read.data.source]
    line += [part for package in allow for part in ("--allow", package)]
    if not read.child.from_scratch and ":" in read.child.network:
        line += ["--allow", read.child.network.partition(":")[0]]
    processes = [subprocess.Popen(line, stdout=subprocess.DEVNULL, env=os.environ) for _ in range(count)]
    try:
        yield
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()


start.name, worker.name = "start", "worker"
start.hidden = True
for _part in (start, worker, report_command, assign_command):
    command.add_command(_part)
