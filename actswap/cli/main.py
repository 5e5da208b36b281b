"""Entry point: the verbs, loaded one by one, and the only place that turns errors into exit codes."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from actswap.errors import ActswapError, first_line

VERBS = {
    "scan": "List every activation call of a model.",
    "convert": "Replace activations; verify; save a bundle.",
    "verify": "Compare two models on the same inputs.",
    "export": "Write an ONNX file and check it in ONNX Runtime.",
    "rebuild": "Put weights that a toolkit trained back into a bundle.",
    "quantize": "Write an 8-bit ONNX file with activations as tables.",
    "revert": "Give the original model back.",
    "bench": "Time two models side by side.",
    "list": "List the activations and the starts they promise.",
    "fit": "Show how a start follows its source; draw it.",
    "tune": "Fine-tune a converted model.",
    "run": "Do all that a recipe says, from model to report.",
    "search": "Search for activation functions, on any number of machines.",
    "report": "Write a converted model as one HTML file.",
    "show": "Show what a bundle holds.",
    "doctor": "Check versions, kernels and backends.",
}
EPILOG = """\b
Exit codes: 0 done, 1 verification failed, 2 usage or nothing matched,
3 the model cannot be loaded or captured, 4 export or runtime, 130 interrupted.
Results go to stdout, narration to stderr; --json prints one object ("schema": 1).
Completion: eval "$(_ACTSWAP_COMPLETE=bash_source actswap)" """


class Verbs(click.Group):
    """A group that imports a verb's module only when the verb is used: help and completion are instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a working day."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"actswap.cli.{_module(cmd_name)}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Name the nearest verb if an unknown one is typed."""
        import difflib

        if args and args[0] not in VERBS and (near := difflib.get_close_matches(args[0], VERBS, 1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _module(verb: str) -> str:
    return {"list": "list_"}.get(verb, verb)


@click.group(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="actswap")
def cli() -> None:
    """Replace the activations of a pretrained PyTorch network by trainable ones that start where it is."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if args is None else list(args)))


def run(args: Sequence[str]) -> int:
    """Run the command line and return its exit code; no traceback reaches the user without --debug."""
    debug, as_json = "--debug" in args, "--json" in args
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows only ASCII shows what it cannot as \\u....
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminated_like_interrupted(), _quiet(debug):
            outcome = cli.main(list(args), prog_name="actswap", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", "Interrupted: every output is complete, or as it was before.", 130, as_json)
    except click.ClickException as problem:
        if not as_json:
            problem.show()
            return 2
        return _report("usage", problem.format_message(), 2, as_json)
    except ActswapError as problem:
        if debug:
            traceback.print_exc()
        return _report(type(problem).__name__, completed(problem, args), problem.exit_code, as_json, problem)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the pipe has gone: nobody would see an error
        return 0
    except Exception as problem:  # no bare exception reaches a user: one sentence, and how to see more
        if debug:
            traceback.print_exc()
        hint = "" if debug else "\n  try: the same command with --debug shows where; please report it"
        return _report("unexpected", f"Unexpected {first_line(problem)}{hint}", 4, as_json)


def completed(problem: ActswapError, args: Sequence[str]) -> str:
    """Return the message of an error; if options are missing, with the command that the user typed and these options.

    >>> from actswap.errors import LoadError
    >>> print(completed(LoadError("it holds weights", add="--model timm:resnet18"), ["scan", "my net.pt"]))
    it holds weights
      try: actswap scan 'my net.pt' --model timm:resnet18
    """
    if not problem.add:
        return str(problem)
    command = f"actswap {shlex.join(args)} {problem.add}"
    return problem.text(f"{command}\n  that is: {problem.fix}" if problem.fix else command)


def _report(kind: str, text: str, code: int, as_json: bool, problem: ActswapError | None = None) -> int:
    if as_json:
        error: dict[str, Any] = {"kind": kind, "message": text}
        if problem is not None:
            error |= {"what": problem.what, "where": problem.where, "why": problem.why, "fix": problem.fix}
        click.echo(json.dumps({"schema": 1, "error": error, "exit_code": code}))
    else:
        from actswap.cli.verb import printable

        click.echo(printable(f"Error: {text}" if code != 130 else text), err=True)
    return code


@contextlib.contextmanager
def _quiet(debug: bool) -> Any:
    """Hide what libraries warn and log for their own developers, unless --debug asks for it."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Any:
    """Let a termination signal unwind as Ctrl-C does, so that temporary files are removed."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # only the main thread may set signal handlers
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
