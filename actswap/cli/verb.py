"""Shared by all verbs: their options, the answer they return, and how it is printed."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
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


@dataclass(frozen=True)
class ModelOptions:
    """How the model files of a command are opened, as the user said it.

    Attributes:
        spec: text of `--model`, which builds the network.
        allow: packages whose classes a pickle may name.
        trust_pickle: load pickles unchecked.
        base: file of the model that a bundle was made from.
        key: which weights of a checkpoint.
        prefix: what stands before the names of the network in it.
        drop: what the checkpoint holds beside the network.
        dtype: precision to load in.
    """

    spec: str | None = None
    allow: tuple[str, ...] = ()
    trust_pickle: bool = False
    base: str | None = None
    key: str | None = None
    prefix: str | None = None
    drop: tuple[str, ...] = ()
    dtype: str | None = None

    def words(self) -> list[str]:
        """Return the options as they are typed, for the commands that are printed."""
        named = (("--model", self.spec), ("--base", self.base), ("--key", self.key), ("--prefix", self.prefix))
        pairs = [*named, ("--dtype", self.dtype), *(("--allow", package) for package in self.allow)]
        pairs += [("--drop", name) for name in self.drop]
        given = [word for name, value in pairs if value is not None for word in (name, value)]
        return [*given, *(["--trust-pickle"] if self.trust_pickle else [])]


def MODEL_OPTIONS(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that open a model; the command receives them as one `how`."""

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        names = [field.name for field in fields(ModelOptions)]
        return function(how=ModelOptions(**{name: given.pop(name) for name in names}), **given)

    return _MODEL_OPTIONS(run)


_MODEL_OPTIONS = _options(
    click.option(
        "--model",
        "spec",
        metavar="SPEC",
        help="How to build the network: torchvision:NAME, timm:NAME, package.module:factory.",
    ),
    click.option("--allow", multiple=True, metavar="PACKAGE", help="Trust the classes of a package in a pickle."),
    click.option("--trust-pickle", is_flag=True, help="Load a pickle unchecked. It can run any program."),
    click.option("--base", type=click.Path(), metavar="FILE", help="The model that a bundle was made from."),
    click.option("--key", metavar="NAME", help="Which weights of a checkpoint: model, ema, generator, ..."),
    click.option("--prefix", metavar="TEXT", help="What stands before the names of the network in a checkpoint."),
    click.option("--drop", multiple=True, metavar="NAME", help="What a checkpoint holds beside the network: a head."),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16", "bfloat16", "float64"]),
        help="Precision to load in; the default is that of the file.",
    ),
)
_VALUE = "kwarg:"  # begins the text of a keyword argument that is no tensor, among those of the inputs


def INPUT_OPTION(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a model is run on; the command receives their texts as `specs`."""

    @functools.wraps(function)
    def run(specs: tuple[str, ...], values: tuple[str, ...], **given: Any) -> Any:
        return function(specs=(*specs, *(_VALUE + value for value in values)), **given)

    return _INPUT_OPTIONS(run)


_INPUT_OPTIONS = _options(
    click.option(
        "--input",
        "specs",
        multiple=True,
        metavar="SPEC",
        help="1,3,224,224[:dtype], name=1,16:int64, or a .npz/.pt file. Repeat for several inputs.",
    ),
    click.option(
        "--kwarg",
        "values",
        multiple=True,
        metavar="NAME=VALUE",
        help="A further argument of forward that is no tensor: use_cache=false, num_frames=4.",
    ),
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


_WORDS = {"true": True, "false": False, "none": None}


def key_values(pairs: Sequence[str], option: str = "--option") -> dict[str, Any]:
    """Read `--option key=value` texts; values are Python literals, true, false, none, or plain words."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            fix = "--option space=layer" if option == "--option" else f"{option} use_cache=false"
            raise UsageError(f"{option} {pair!r} is not understood", fix=fix)
        try:
            found[key] = _WORDS[value.lower()] if value.lower() in _WORDS else ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def load(path: str, how: ModelOptions, base: str | None = None) -> LoadedModel:
    """Load a model file; print its class, kind and size, and what was chosen on the way.

    Args:
        path: the file, model folder or bundle.
        how: the options of the command.
        base: file of the model that a bundle was made from, if not that of the options.
    """
    from actswap.io.loading import load_model

    loaded = load_model(
        path,
        model=how.spec,
        allow=how.allow,
        trust_pickle=how.trust_pickle,
        base=base or how.base,
        key=how.key,
        prefix=how.prefix,
        drop=how.drop,
        dtype=how.dtype,
    )
    count = sum(p.numel() for p in loaded.module.parameters())
    say(f"Model: {type(loaded.module).__name__} from {loaded.source} ({loaded.kind}), {count:,} parameters")
    for note in loaded.notes:
        say(f"Note: {note}")
    return loaded


def again(*words: str, how: ModelOptions, specs: Sequence[str] = ()) -> str:
    """Return a command that goes on from here: the words, and the options by which the model was opened.

    >>> again("actswap", "export", "my net.acon_c", how=ModelOptions(allow=("mylib",)), specs=["1,3,64,64"])
    "actswap export 'my net.acon_c' --allow mylib --input 1,3,64,64"
    """
    pairs = [("--kwarg", s.removeprefix(_VALUE)) if s.startswith(_VALUE) else ("--input", s) for s in specs]
    return shlex.join([*words, *how.words(), *(word for pair in pairs for word in pair)])


def for_bundle(how: ModelOptions, written: Path, source: str) -> ModelOptions:
    """Return the options that open a bundle which was just written from `source`.

    The bundle says itself how its base is taken from its file. What it cannot say: where the file is, if it is not
    beside the bundle, and which code the user trusts.
    """
    from actswap.io import base_note, bundle, bundle_files
    from actswap.io.model_source import is_library_source

    spec = None if how.spec is None or is_library_source(how.spec) else how.spec
    near = base_note.find_base(written, bundle_files.read_base(written))
    base = None if near is not None else next(map(str, inputs_of(source, how.base)), None)
    if base is None and near is None and not bundle.is_bundle(source):
        base = source
    return replace(how, spec=spec, base=base, key=None, prefix=None, drop=(), dtype=None)


def inputs_of(path: str, base: str | None) -> list[Path]:
    """Return the other files that a bundle is read with: its base, which must not be overwritten either."""
    from actswap.errors import LoadError
    from actswap.io import base_note, bundle, bundle_files

    if base is not None or not bundle.is_bundle(path):
        return [Path(base)] if base is not None else []
    with contextlib.suppress(LoadError, OSError):
        found = base_note.find_base(path, bundle_files.read_base(path))
        return [found] if found is not None else []
    return []


def inputs_for(loaded: LoadedModel, specs: Sequence[str]) -> Inputs:
    """Build the example inputs, or guess them, and print which are used."""
    import torch

    from actswap.inputs import guess, parse

    values = key_values([s.removeprefix(_VALUE) for s in specs if s.startswith(_VALUE)], "--kwarg")
    specs = [s for s in specs if not s.startswith(_VALUE)]
    inputs = parse(specs, loaded.module) if specs else guess(loaded.module)
    inputs = replace(inputs, kwargs={**inputs.kwargs, **values})
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
