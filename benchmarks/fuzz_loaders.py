"""Mutate valid files of every kind and load them: `python benchmarks/fuzz_loaders.py --minutes 20`.

Each loader gets files that are valid but for one to four changes: of bytes, of zip records, of opcodes in a pickle, of
keys and values in JSON and TOML. What must never happen: the process dies or hangs, an exception that is not the
tool's own, code of the file runs (an audit hook watches), or a changed model loads as if it were whole, where the
format promises to see that (bundles). Totals by loader are printed, and kept in a file: the same command goes on from
there, with other seeds, until `--inputs` are done. Failures are listed beside it, with the seed of each.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from attack_toys import RECIPE
from safetensors.torch import save_file
from torch import nn

from actswap.conversion.pipeline import convert
from actswap.errors import ActswapError
from actswap.io import bundle
from actswap.io.loading import load_model
from actswap.io.save_exported import save_pt2
from actswap.recipe import read_recipe

SECONDS = 20  # one input that takes longer hangs
MEMORY = 12 << 30  # bytes of address space above what the process has
WORDS = ["", "x", "..", "/etc/passwd", "__class__", "forward", "os.system", "a" * 3000, "9**9**9", "\0", "\ud7ff", "é"]
NUMBERS = [0, 1, -1, 2, 255, 2**31, 2**63, 2**64, -(2**63), 10**18, 10**30, 0.5, 1e308, float("inf"), float("nan")]
OPCODES = b"(.012FGIJKLMNPQRSTUVXabcdeghijlopqrstu}]){\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8f\x93\x94\x95"
EVENTS = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "urllib.Request",
    "ctypes.dlopen",
)
Loader = Callable[[Path], Any]
seen: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in EVENTS:
        seen.append(f"{event} {arguments!r}"[:200])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3), nn.ReLU()
    ).eval()


# --- mutations ---


def bytes_of(data: bytes, dice: random.Random) -> bytes:
    """Flip, cut, repeat or overwrite a few bytes."""
    content = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(content) or 1)
        way = dice.randrange(5)
        if way == 0 and content:
            content[at] ^= 1 << dice.randrange(8)
        elif way == 1 and content:
            content[at] = dice.choice(OPCODES)
        elif way == 2:
            del content[at : at + dice.choice([1, 2, 8, 100])]
        elif way == 3:
            content[at:at] = content[at : at + dice.choice([1, 4, 64])]
        else:
            content[at : at + 8] = dice.choice([0, 1, 255, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
    return bytes(content)


def zip_of(data: bytes, dice: random.Random) -> bytes:
    """Change one record of a zip file, and leave the zip file whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        records = [(info.filename, old.read(info)) for info in old.infolist()]
    at = dice.randrange(len(records))
    if dice.random() < 0.6:  # the interesting records are the programs, not the numbers
        at = next((i for i, (n, _) in enumerate(records) if n.endswith(("data.pkl", "model.json", "config.json"))), at)
    name, content = records[at]
    way = dice.randrange(12)
    if way == 0:
        del records[at]
    elif way == 1:
        records[at] = (name + dice.choice(["x", "/../y", ".pkl"]), content)
    elif name.endswith(".json") and way < 11:
        records[at] = (name, json_of(content, dice))
    elif name.endswith("model.pt") and way < 11:
        records[at] = (name, zip_of(content, dice))
    else:
        records[at] = (name, bytes_of(content, dice))
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", dice.choice([0, 0, 0, 8])) as new:
        warnings.simplefilter("ignore")
        for name, content in records:
            new.writestr(name, content)
    return made.getvalue()


def tree_of(tree: Any, dice: random.Random) -> Any:
    """Change one place of a JSON tree."""
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in children:
            places.append((node, key))
            waiting.append(child)
    if not places:
        return dice.choice([None, [], {}, 3, "x"])
    node, key = dice.choice(places)
    way = dice.randrange(8)
    if way == 0:
        del node[key]
    elif way == 1:
        node[key] = dice.choice([None, [], {}, True, [[]], {"a": 1}])
    elif way == 2:
        node[key] = dice.choice(NUMBERS)
    elif way == 3:
        node[key] = dice.choice(WORDS)
    elif way == 4 and isinstance(node, dict):
        node[dice.choice(WORDS)] = node.pop(key)
    elif way == 5:
        other, name = dice.choice(places)
        with suppress(IndexError, KeyError, TypeError):
            node[key] = copy.deepcopy(other[name])
    elif isinstance(node[key], str) and node[key]:
        text = node[key]
        at = dice.randrange(len(text))
        node[key] = text[:at] + dice.choice([*WORDS, "(", "'", "]", "*", "1"]) + text[at + dice.randrange(3) :]
    elif isinstance(node[key], (int, float)):
        node[key] = node[key] + dice.choice([1, -1, 1000, -1000, 10**9])
    return tree


def json_of(data: bytes, dice: random.Random) -> bytes:
    """Change a JSON file: mostly its tree, sometimes its bytes."""
    if dice.random() < 0.1:
        return bytes_of(data, dice)
    tree = json.loads(data)
    for _ in range(dice.randint(1, 3)):
        tree = tree_of(tree, dice)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def toml_of(data: bytes, dice: random.Random) -> bytes:
    """Change a recipe line by line, value by value, or byte by byte."""
    lines = data.decode().splitlines()
    at = dice.randrange(len(lines))
    way = dice.randrange(5)
    if way == 0:
        return bytes_of(data, dice)
    if way == 1:
        del lines[at]
    elif way == 2:
        lines.insert(at, dice.choice(lines))
    elif way == 3:
        key = lines[at].partition("=")[0]
        value = dice.choice(
            ["true", "[]", "{}", "1e999", "-1", "'''x", "1979-05-27", json.dumps(dice.choice(WORDS)), "nan"]
        )
        lines[at] = f"{key}= {value}"
    else:
        lines[at] = lines[at].replace(dice.choice('aeiou=["'), dice.choice(["", "x", ".", "]"]))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


# --- one loader each ---


class Kind:
    """A kind of file: valid examples, a mutation, and the function that loads one."""

    def __init__(
        self, name: str, mutate: Callable[[bytes, random.Random], bytes], load: Loader, files: dict[str, list[str]]
    ):
        self.name, self.mutate, self.load, self.files = name, mutate, load, files


def kinds(seeds: Path) -> list[Kind]:
    """Write valid files and return how each kind is loaded."""
    model, x = network(), torch.randn(2, 3, 8, 8)
    converted = convert(model, "meta_acon", x).model
    torch.save(model, seeds / "module.pt")
    torch.save(converted, seeds / "converted.pt")
    torch.save(model.state_dict(), seeds / "weights.pt")
    torch.save(model.state_dict(), seeds / "old.pt", _use_new_zipfile_serialization=False)
    save_file(model.state_dict(), seeds / "weights.safetensors")
    save_pt2(model, seeds / "plain.pt2", (x,))
    save_pt2(converted, seeds / "converted.pt2", (x,))
    for target in ("pau", "acon_c"):
        bundle.save(convert(model, target, x).model, seeds / f"b_{target}")
    (seeds / "recipe.toml").write_text(RECIPE)
    from actswap.onnx.export import export_onnx

    export_onnx(converted, x, seeds / "m.onnx")

    def whole(path: Path) -> None:
        load_model(path)

    def weights(path: Path) -> None:
        load_model(path, model="fuzz_factory:network")

    def of_bundle(path: Path) -> None:
        from actswap.cli.main import run

        loaded = bundle.load(path, network())
        before = pristine[path.name].state_dict()
        for name, value in loaded.state_dict().items():
            if not torch.equal(value, before[name]):
                raise AssertionError(f"a changed bundle loads: {name}")
        if run(["show", str(path)]) not in (0, 3):
            raise AssertionError("show")

    pristine = {name: bundle.load(seeds / name, network()) for name in ("b_pau", "b_acon_c")}

    def of_session(path: Path) -> None:
        from actswap.onnx.sessions import session

        session(path, cache_folder=path.parent / "cache", prepared=False)

    def of_recipe(path: Path) -> None:
        read_recipe(path, allow=("attack_toys",))

    sys.modules["fuzz_factory"] = sys.modules[__name__]
    return [
        Kind("pickle, bytes", bytes_of, whole, {"module.pt": [], "converted.pt": []}),
        Kind("pickle, records", zip_of, whole, {"module.pt": [], "converted.pt": []}),
        Kind("weights, records", zip_of, weights, {"weights.pt": []}),
        Kind("weights before torch 1.6", bytes_of, weights, {"old.pt": []}),
        Kind("safetensors", bytes_of, weights, {"weights.safetensors": []}),
        Kind("exported program", zip_of, whole, {"plain.pt2": [], "converted.pt2": []}),
        Kind("exported program, bytes", bytes_of, whole, {"plain.pt2": []}),
        Kind("bundle, plan", json_of, of_bundle, {"b_pau": ["plan.json"], "b_acon_c": ["plan.json"]}),
        Kind(
            "bundle, weights", bytes_of, of_bundle, {"b_pau": ["model.safetensors"], "b_acon_c": ["model.safetensors"]}
        ),
        Kind("recipe", toml_of, of_recipe, {"recipe.toml": []}),
        Kind("onnx", bytes_of, of_session, {"m.onnx": []}),
    ]


def attempt(kind: Kind, seeds: Path, work: Path, seed: int) -> str:
    """Make one input and load it; return `loaded`, `refused`, or what went wrong."""
    dice = random.Random(seed)
    name = dice.choice(sorted(kind.files))
    source = seeds / name
    target = work / name
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
        file = target / dice.choice(kind.files[name])
    else:
        shutil.copy(source, target)
        file = target
    changed = kind.mutate(file.read_bytes(), dice)
    file.write_bytes(changed)
    seen.clear()
    signal.alarm(SECONDS)
    try:
        kind.load(target)
        result = "loaded"
    except ActswapError:
        result = "refused"
    except TimeoutError:
        result = "hang"
    except BaseException:
        result = "raw: " + traceback.format_exc(limit=-3)
    finally:
        signal.alarm(0)
    return f"ran: {seen[0]}" if seen else result


def _late(number: int, frame: Any) -> None:
    raise TimeoutError


def batch(kind: Kind, seeds: Path, first: int, count: int, failures: Path) -> dict[str, int]:
    """Run some inputs in a child, so that a crash costs one batch and names its input."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.signal(signal.SIGALRM, _late)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
        sys.addaudithook(watch)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        with (
            tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as made,
            os.fdopen(writer, "w") as out,
        ):
            os.chdir(made)
            for seed in range(first, first + count):
                out.write(f"{seed}\n")
                out.flush()
                result = attempt(kind, seeds, Path(made), seed)
                out.write(json.dumps(result) + "\n")
                out.flush()
            out.flush()
        os._exit(0)
    os.close(writer)
    totals: dict[str, int] = {}
    last, begun = "", first
    with os.fdopen(reader) as lines:
        for line in lines:
            if line[0] != '"':
                begun = int(line)
                continue
            last = json.loads(line)
            word = last.partition(":")[0]
            totals[word] = totals.get(word, 0) + 1
            if word not in ("loaded", "refused"):
                with failures.open("a") as file:
                    file.write(json.dumps([kind.name, begun, last]) + "\n")
    status = os.waitpid(child, 0)[1]
    if status != 0:
        totals["crash"] = totals.get("crash", 0) + 1
        with failures.open("a") as file:
            file.write(json.dumps([kind.name, begun, f"crash: status {status}"]) + "\n")
    return totals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="stop when so many were made, over all runs")
    parser.add_argument("--state", type=Path, default=Path("benchmarks/.cache/fuzz.json"), help="totals, to go on from")
    parser.add_argument("--only", default="", help="loaders whose name begins so")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.state.parent.mkdir(parents=True, exist_ok=True)
    totals: dict[str, dict[str, int]] = json.loads(options.state.read_text()) if options.state.exists() else {}
    failures = options.state.with_suffix(".failures")
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as made:
        seeds = Path(made)
        todo = [kind for kind in kinds(seeds) if kind.name.startswith(options.only)]
        while time.monotonic() < end and sum(sum(t.values()) for t in totals.values()) < options.inputs:
            for kind in todo:
                mine = totals.setdefault(kind.name, {})
                first = 1_000_000_000 * todo.index(kind) + sum(mine.values())
                for word, count in batch(kind, seeds, first, 50, failures).items():
                    mine[word] = mine.get(word, 0) + count
                beside = options.state.with_suffix(".part")
                beside.write_text(json.dumps(totals, indent=1))
                os.replace(beside, options.state)
    columns = ("loaded", "refused", "raw", "hang", "crash", "ran")
    print(f"{'loader':28}" + "".join(f"{c:>10}" for c in columns))
    for name, counts in totals.items():
        print(f"{name:28}" + "".join(f"{counts.get(c, 0):10}" for c in columns))
    wrong = sum(counts.get(c, 0) for counts in totals.values() for c in columns[2:])
    print(
        f"{sum(sum(t.values()) for t in totals.values()):,} inputs, {wrong} failures"
        + (f": {failures}" if wrong else "")
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
