"""Stop a command at each system call that changes files, and see what stands at its output afterwards.

The command runs in a child made by `fork`, so nothing is imported twice. An audit hook counts the calls that change
files: opening for writing, renaming, removing, making folders; `os.fsync` is counted too. At call number n the child
ends at once (`os._exit`), as if it had been killed: no `finally`, no flush. The native writers of safetensors and torch
are one step, between two counted calls; they write only to temporary names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KILLED = 77
MOST_BAD = 12  # a command that fails whatever it is stopped at would be tried without end
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")


@dataclass
class Outcomes:
    """How often each state of the output was found: after a kill, and after the same command was run again."""

    stops: int = 0
    absent: int = 0
    old: int = 0
    complete: int = 0
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.stops} stops: {self.absent} absent, {self.old} old, {self.complete} complete"
        return counts + (f", BAD: {self.bad[:3]}" if self.bad else "")


def run_child(command: Callable[[], int], folder: Path, stop: int | None = None) -> int:
    """Run a command in a child process in a folder; end it before its `stop`-th change of a file.

    Returns:
        The exit code, KILLED if it was ended.
    """
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if stop is not None:
            _arm(stop, str(folder.resolve()))
        code = 99
        with contextlib.suppress(BaseException):
            code = command()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def answer_of(question: Callable[[], str]) -> str:
    """Return what a function says in a child process: ONNX Runtime, once it has run, does not survive a fork."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = question()
        except BaseException as error:
            said = f"damaged: {type(error).__name__} {error}"[:200]
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def _arm(stop: int, root: str) -> None:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == stop:
            os._exit(KILLED)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = (*arguments, None, None)[:3]
            writes = isinstance(mode, str) and any(c in mode for c in "wax+")
            writes = writes or (isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
            if writes and not str(path).startswith(("/dev/", "/proc/")):
                step()
        elif event in _EVENTS:
            step()

    sys.addaudithook(hook)
    flush = os.fsync

    def counted(descriptor: int) -> None:
        step()
        flush(descriptor)

    os.fsync = counted


def kill_everywhere(
    command: Callable[[], int],
    prepared: Path,
    state: Callable[[Path], str],
    work: Path,
    *,
    stops: Sequence[int] | None = None,
    again: bool = True,
) -> Outcomes:
    """Stop a command at each of its changes of files, each time in a fresh copy of a folder.

    Args:
        command: what runs, in that folder; returns its exit code.
        prepared: the folder before the command.
        state: tells what stands at the output in a folder: `absent`, `old`, `complete` or anything else.
        work: an empty folder to work in.
        stops: the numbers of the changes to stop at; None takes all.
        again: also run the same command once more after each stop; it must end with 0 and a complete output.
    """
    found = Outcomes()
    number = 0
    while True:
        number += 1
        if stops is not None and number > max(stops):
            return found
        if stops is not None and number not in stops:
            continue
        folder = work / f"stop-{number}"
        shutil.copytree(prepared, folder, symlinks=True)
        code = run_child(command, folder, number)
        if code == 0:
            return found
        if len(found.bad) >= MOST_BAD:
            found.bad.append("and so on")
            return found
        found.stops += 1
        seen = state(folder)
        if code != KILLED or seen not in ("absent", "old", "complete"):
            found.bad.append(f"stop {number}: exit {code}, {seen}")
        else:
            setattr(found, seen, getattr(found, seen) + 1)
        if again:
            done = seen == "complete"  # then the command may say that its output exists
            rerun = run_child(command, folder)
            seen = state(folder)
            if seen != "complete" or not (rerun == 0 or done):
                found.bad.append(f"rerun after stop {number}: exit {rerun}, {seen}")
        shutil.rmtree(folder)
