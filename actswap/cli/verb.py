"""Shared by all verbs: their options, the answer they return, and how it is printed."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actswap.errors import UsageError
from actswap.sites import Progress

if TYPE_CHECKING:
    from actswap.inputs import Inputs
    from actswap.io.loading import LoadedModel

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Answer:
    """The result of a verb: data for `--json`, and texts and tables for a terminal.

    Attributes:
        data: JSON data; `schema` is added.
        show: texts and rich tables, printed in order on stdout without `--json`.
        code: exit code.
    """

    data: dict[str, Any]
    show: Sequence[Any] = field(default_factory=tuple)
    code: int = 0


def verb(*options: Decorator) -> Callable[[Callable[..., Answer]], click.Command]:
    """Turn a function that returns an Answer into a command with `--json` and `--debug`."""

    def decorate(function: Callable[..., Answer]) -> click.Command:
        @functools.wraps(function)
        def run(*, as_json: bool, debug: bool, **rest: Any) -> None:
            stdout = sys.stdout
            with contextlib.redirect_stdout(sys.stderr):  # prints of libraries are no part of the result
                answer = function(**rest)
            print_answer(answer, as_json, stdout)
            click.get_current_context().exit(answer.code)

        wrapped: Callable[..., Any] = run
        flags = (
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
            click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        )
        for option in reversed((*options, *flags)):
            wrapped = option(wrapped)
        name = function.__module__.rpartition(".")[2].rstrip("_")
        return click.command(name, context_settings={"help_option_names": ["-h", "--help"]})(wrapped)

    return decorate


def print_answer(answer: Answer, as_json: bool, stdout: Any) -> None:
    """Print an answer: one JSON object, or the texts and tables."""
    if as_json:
        json.dump({"schema": 1, **finite(answer.data)}, stdout, indent=1, allow_nan=False)
        stdout.write("\n")
        return
    from rich.console import Console

    wide = None if stdout.isatty() else 160
    console = Console(file=stdout, width=wide, highlight=False, soft_wrap=True, markup=False, emoji=False)
    for item in answer.show:
        console.print(printable(item) if isinstance(item, str) else item)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text without control characters, because names from untrusted files reach the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def finite(data: Any) -> Any:
    """Return JSON data without infinities and NaN, which JSON does not know: they become null."""
    if isinstance(data, dict):
        return {str(k): finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [finite(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def say(text: str) -> None:
    """Print a message on stderr."""
    click.echo(printable(text), err=True)


@contextlib.contextmanager
def progress() -> Iterator[Progress | None]:
    """Give a progress callback that draws a bar on stderr; None if stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def update(done: int, total: int, text: str) -> None:
            key = text.split(":")[0]
            if key not in tasks:
                tasks[key] = bars.add_task(text, total=total)
            bars.update(tasks[key], completed=done, total=total, description=text)

        yield update


def _complete_targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete activation names from the text of their files, because importing them would import torch."""
    folder = Path(__file__).parent.parent / "activations"
    names: set[str] = set()
    for file in folder.glob("*.py"):
        names |= set(re.findall(r"(?:\bPlain\(\s*|^    name=)\"(\w+)\"", file.read_text(encoding="utf-8"), re.M))
    selector, equals, begun = incomplete.rpartition("=")
    return sorted(f"{selector}{equals}{name}" for name in names if name.startswith(begun))


def _options(*options: Decorator) -> Decorator:
    return lambda function: functools.reduce(lambda f, option: option(f), reversed(options), function)


MODEL_OPTIONS = _options(
    click.option(
        "--model",
        "spec",
        metavar="SPEC",
        help="How to build the network: torchvision:NAME, timm:NAME, package.module:factory.",
    ),
    click.option("--allow", multiple=True, metavar="PACKAGE", help="Trust the classes of a package in a pickle."),
    click.option("--trust-pickle", is_flag=True, help="Load a pickle unchecked. It can run any program."),
    click.option("--base", type=click.Path(), metavar="FILE", help="The model that a bundle was made from."),
)
INPUT_OPTION = click.option(
    "--input",
    "specs",
    multiple=True,
    metavar="SPEC",
    help="1,3,224,224[:dtype], name=1,16:int64, or a .npz/.pt file. Repeat for several inputs.",
)
TARGET_OPTION = click.option(
    "--to",
    "targets",
    required=True,
    multiple=True,
    metavar="[SELECTOR=]NAME",
    shell_complete=_complete_targets,
    help="Activation, see actswap list. Repeat it with selectors; the first that matches a site is used: "
    "--to 'layer4.*=meta_acon' --to acon_c.",
)
SELECT_OPTIONS = _options(
    click.option(
        "--only",
        multiple=True,
        metavar="SELECTOR",
        help="Sites to replace: layer3.*, source:relu, first:4, ...",
    ),
    click.option("--skip", multiple=True, metavar="SELECTOR", help="Sites to leave."),
)
TOLERANCE_OPTION = click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Output error, relative to how much the output varies.",
)
SEED_OPTION = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the targets' random starts."
)
FORCE_OPTION = click.option("--force", is_flag=True, help="Overwrite an existing output.")


def key_values(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `--option key=value` texts; values are Python literals or plain words."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--option {pair!r} is not understood", fix="--option space=layer")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def load(path: str, spec: str | None, allow: Sequence[str], trust_pickle: bool, base: str | None = None) -> LoadedModel:
    """Load a model file and print its class, kind and size."""
    from actswap.io.loading import load_model

    loaded = load_model(path, model=spec, allow=allow, trust_pickle=trust_pickle, base=base)
    count = sum(p.numel() for p in loaded.module.parameters())
    say(f"Model: {type(loaded.module).__name__} from {loaded.source} ({loaded.kind}), {count:,} parameters")
    return loaded


def inputs_of(path: str, base: str | None) -> list[Path]:
    """Return the other files that a bundle is read with: its base, which must not be overwritten either."""
    from actswap.errors import LoadError
    from actswap.io import bundle

    if base is not None or not bundle.is_bundle(path):
        return [Path(base)] if base is not None else []
    with contextlib.suppress(LoadError, OSError):
        found = bundle.find_base(path, bundle.read_base(path))
        return [found] if found is not None else []
    return []


def inputs_for(loaded: LoadedModel, specs: Sequence[str]) -> Inputs:
    """Build the example inputs, or guess them, and print which are used."""
    import torch

    from actswap.inputs import guess, parse

    inputs = parse(specs, loaded.module) if specs else guess(loaded.module)
    say(f"Input: {inputs.said}; torch {torch.__version__}")
    return inputs


def table(title: str, *columns: str, right: Sequence[str] = ()) -> Any:
    """Return an empty rich table."""
    from rich import box
    from rich.table import Table

    class Rows(Table):
        def add_row(self, *cells: Any, **more: Any) -> None:
            super().add_row(*(printable(str(cell)) for cell in cells), **more)

    made = Rows(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made
