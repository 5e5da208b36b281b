"""Change valid files of every kind and load them: `python benchmarks/fuzz_loaders.py --minutes 20`.

Each loader gets files that are valid but for one to four changes (`mutations.py`, `fuzz_kinds.py`). What must never
happen: the process dies, hangs or takes far more memory than a file of some kilobytes needs; an exception that is not
the tool's own; code of the file runs (an audit hook watches); a changed model loads as if it were whole, if the format
promises to see that (bundles). Totals by loader are printed, and kept in a file: the same command goes on from there,
with other seeds, until `--inputs` are done. Failures are listed beside it, with the seed of each; `--again KIND SEED`
repeats one and shows what it raises.

Children made by `fork` take turns: each kind gets the same time, so quick loaders see more inputs. A child keeps the
number of its input in shared memory, so that a crash or a hang names it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from fuzz_kinds import Kind, WrongModel, kinds

from actswap.errors import ActswapError

SECONDS = 10  # one input that takes longer hangs
STUCK = 60  # seconds after which a child that does not even answer the alarm is killed
MEMORY = 1 << 30  # bytes of address space above what the process has
SLICE = 2.0  # seconds of one turn
EVENTS = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "urllib.Request",
    "ctypes.dlopen",
)
WORDS = ("loaded", "refused", "raw", "hang", "crash", "ran", "wrong")
PER_KIND = 1_000_000_000  # seeds
seen: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what a loader must never do."""
    if event in EVENTS:
        seen.append(f"{event} {arguments!r}"[:200])


def attempt(kind: Kind, work: Path, seed: int) -> str:
    """Make one input and load it; return `loaded`, `refused`, or what went wrong."""
    name, content = kind.input(random.Random(seed))
    seen.clear()
    signal.alarm(SECONDS)
    try:
        kind.load(content, work / name)
        result = "loaded"
    except ActswapError:
        result = "refused"
    except Late:
        result = "hang"
    except WrongModel as error:
        result = f"wrong: {error}"
    except BaseException:
        result = "raw: " + traceback.format_exc(limit=-3)
    finally:
        signal.alarm(0)
    return f"ran: {seen[0]}" if seen else result


class Late(BaseException):
    """The alarm; no handler of a loader catches it."""


def _late(number: int, frame: Any) -> None:
    raise Late


def run_slice(kind: Kind, first: int, most: int, at: mmap.mmap, out: int) -> None:
    """Load inputs for some seconds in this process, a child; write the totals and failures as JSON."""
    signal.signal(signal.SIGALRM, _late)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    sys.addaudithook(watch)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    counts: dict[str, int] = {}
    failures: list[tuple[int, str]] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as made:
        os.chdir(made)
        end = time.monotonic() + SLICE
        for seed in range(first, first + most):
            if time.monotonic() > end:
                break
            at[:8] = seed.to_bytes(8, "little")
            result = attempt(kind, Path(made), seed)
            word = result.partition(":")[0]
            counts[word] = counts.get(word, 0) + 1
            if word not in ("loaded", "refused") and len(failures) < 20:
                failures.append((seed, result))
        os.chdir("/")
    os.write(out, json.dumps([counts, failures]).encode())
    os._exit(0)


class Turn:
    """One child that loads inputs of one kind for some seconds."""

    def __init__(self, kind: Kind, first: int, most: int) -> None:
        self.kind, self.first, self.begun = kind, first, time.monotonic()
        self.at = mmap.mmap(-1, 8)
        self.at[:8] = first.to_bytes(8, "little")
        self.out, writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            run_slice(kind, first, most, self.at, writer)
        os.close(writer)

    def finish(self) -> tuple[dict[str, int], list[tuple[int, str]]]:
        """Wait for the child; a crash or a hang counts as one input, with all that were right before it as refused."""
        data = b""
        while True:
            left = STUCK + SLICE + self.begun - time.monotonic()
            if not select.select([self.out], [], [], max(left, 0.0))[0]:
                os.kill(self.child, signal.SIGKILL)
                break
            part = os.read(self.out, 1 << 16)
            if not part:
                break
            data += part
        os.close(self.out)
        status = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        if status == 0:
            counts, failures = json.loads(data)
            return counts, failures
        seed = int.from_bytes(self.at[:8], "little")
        word = "hang" if status == -signal.SIGKILL else "crash"
        return {"refused": seed - self.first, word: 1}, [(seed, f"{word}: status {status}")]


def fuzz(todo: list[Kind], options: argparse.Namespace, totals: dict[str, dict[str, int]]) -> None:
    """Let the kinds take turns until the time or the number of inputs is over."""
    failures = options.state.with_suffix(".failures")
    end = time.monotonic() + 60 * options.minutes
    spent: dict[str, float] = {}
    begun: dict[str, int] = {}  # inputs that earlier runs made
    waiting: list[Turn] = []
    turn = 0
    while True:
        done = sum(sum(t.values()) for t in totals.values())
        going = time.monotonic() < end and done < options.inputs
        if going and len(waiting) < options.processes:
            kind = todo[turn % len(todo)]
            turn += 1
            made = sum(totals.setdefault(kind.name, {}).values())
            begun.setdefault(kind.name, made)
            if not any(other.kind is kind for other in waiting):
                waiting.append(Turn(kind, PER_KIND * kind.number + made, options.inputs - done))
                continue
        if not waiting:
            break
        child = waiting.pop(0)
        counts, wrong = child.finish()
        name = child.kind.name
        spent[name] = spent.get(name, 0.0) + time.monotonic() - child.begun
        for word, count in counts.items():
            totals[name][word] = totals[name].get(word, 0) + count
        with failures.open("a") as file:
            file.writelines(json.dumps([name, seed, what]) + "\n" for seed, what in wrong)
        beside = options.state.with_suffix(".part")
        beside.write_text(json.dumps(totals, indent=1))
        os.replace(beside, options.state)
    print(f"{'loader':28}" + "".join(f"{word:>10}" for word in WORDS) + f"{'per second':>12}")
    for name, counts in totals.items():
        rate = (sum(counts.values()) - begun.get(name, 0)) / spent[name] if spent.get(name) else 0.0
        print(f"{name:28}" + "".join(f"{counts.get(word, 0):10}" for word in WORDS) + f"{rate:12.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="stop when so many were made, over all runs")
    parser.add_argument("--processes", type=int, default=1, help="children at once")
    parser.add_argument("--state", type=Path, default=Path("benchmarks/.cache/fuzz.json"), help="totals, to go on from")
    parser.add_argument("--only", default="", help="loaders whose name begins so")
    parser.add_argument("--again", nargs=2, metavar=("KIND", "SEED"), help="repeat one input, and show what it raises")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.state = options.state.absolute()
    options.state.parent.mkdir(parents=True, exist_ok=True)
    totals: dict[str, dict[str, int]] = json.loads(options.state.read_text()) if options.state.exists() else {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        todo = [kind for kind in kinds(folder) if kind.name.startswith(options.only)]
        if options.again:
            kind = next(kind for kind in todo if kind.name == options.again[0])
            name, content = kind.input(random.Random(int(options.again[1])))
            print(name, repr(content[:3000]))
            (folder / "again").mkdir()
            kind.load(content, folder / "again" / name)
            return 0
        fuzz(todo, options, totals)
    wrong = sum(counts.get(word, 0) for counts in totals.values() for word in WORDS[2:])
    print(
        f"{sum(sum(t.values()) for t in totals.values()):,} inputs, {wrong} failures"
        + (f": {options.state.with_suffix('.failures')}" if wrong else "")
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
