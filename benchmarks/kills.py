"""Kill each command at each change of a file, and print what stood at its output: `python benchmarks/kills.py`.

Prints a table: command, stop points, and how often the output was absent, the old one, or complete. "again" is the
number of stops after which the same command, run once more, did not end with 0 and a complete output (0 is right).
Exit code 1 if any output was in another state.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from killing import answer_of, kill_everywhere, run_child
from recipe_toy import RECIPE, net
from torch import nn

from actswap.cli.main import run
from actswap.io import bundle, bundle_files
from actswap.io.loading import load_model
from actswap.onnx.sessions import session

INPUT = ["--input", "2,3,16,16"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 4)
    ).eval()


def content(path: Path) -> str:
    """Digest of what an output holds, as its own reader sees it; `absent` without one; raises if it is damaged."""
    if not path.exists():
        return "absent"
    if path.is_dir():
        if not bundle.is_bundle(path):
            return "absent" if not any(path.iterdir()) else "a folder that is no bundle"
        document = bundle_files.read(path)
        tensors, metadata = bundle_files.weights_of(path, document["pair"])
        if bundle_files.pair_of(document["plan"], tensors, json.loads(metadata["alias"])) != document["pair"]:
            raise ValueError("plan and numbers are not those that were saved")
        return str(document["pair"])
    if path.suffix == ".onnx":
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    elif path.suffix in (".pt", ".pt2"):
        load_model(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def judge(output: str, before: Path, after: Path) -> Callable[[Path], str]:
    """Return what names the state of an output, from what stood there before and what a whole run gives."""
    old, new = (answer_of(lambda folder=folder: content(folder / output)) for folder in (before, after))

    def state(folder: Path) -> str:
        seen = answer_of(lambda: content(folder / output))
        if seen.startswith("damaged"):
            return seen
        return {old: "old", new: "complete", "absent": "absent"}.get(seen, "another")

    return state


def cached() -> int:
    """Open a session that prepares the model, with a cache in the current folder."""
    found = session("m.onnx", cache_folder="cache")
    found.run(None, {found.get_inputs()[0].name: np.zeros((2, 3, 16, 16), np.float32)})
    return 0


def cli(*arguments: str) -> Callable[[], int]:
    return lambda: run(list(arguments))


CASES: dict[str, tuple[Callable[[], int], str]] = {
    "convert": (cli("convert", "m.pt", "--to", "pau", "-o", "new", *INPUT), "new"),
    "convert --force": (cli("convert", "m.pt", "--to", "meta_acon", "-o", "old", "--force", *INPUT), "old"),
    "convert --format pt2": (
        cli("convert", "m.pt", "--to", "acon_c", "--format", "pt2", "-o", "new.pt2", *INPUT), "new.pt2"),
    "convert --format pt2 --force": (
        cli("convert", "m.pt", "--to", "acon_b", "--format", "pt2", "-o", "p.pt2", "--force", *INPUT), "p.pt2"),
    "export": (cli("export", "old", "-o", "new.onnx", *INPUT), "new.onnx"),
    "export --force": (cli("export", "m.pt", "-o", "m.onnx", "--force", *INPUT), "m.onnx"),
    "revert (torch.save)": (cli("revert", "old", "-o", "r.pt"), "r.pt"),
    "revert --force": (cli("revert", "old", "-o", "q.pt", "--force"), "q.pt"),
    "session, its cache": (cached, "cache"),
    "tune": (cli("tune", "toy", "--data", "recipe_toy:data", "-o", "tuned", "--epochs", "1", "--batch", "16",
                 "--set", "accelerator=cpu", "--set", "checkpoint_every=2", "--allow", "recipe_toy"), "tuned/bundle"),
    "run": (cli("run", "recipe.toml", "-o", "ran", "--allow", "recipe_toy", "--set", "tune.epochs=1",
                "--set", "export.onnx=true"), "ran/bundle"),
}  # fmt: skip


def prepare(folder: Path, toys: bool = True) -> None:
    """Fill a folder with the inputs and with old outputs; `toys` are the inputs of tune and run."""
    torch.save(network(), folder / "m.pt")
    torch.manual_seed(1)
    torch.save(network(), folder / "q.pt")
    lines = [
        ["convert", "m.pt", "--to", "acon_c", "-o", "old", *INPUT],
        ["convert", "m.pt", "--to", "acon_c", "--format", "pt2", "-o", "p.pt2", *INPUT],
        ["export", "old", "-o", "m.onnx", *INPUT],
    ]
    if toys:
        (folder / "recipe.toml").write_text(RECIPE)
        torch.save(net().state_dict(), folder / "toy.pt")
        toy = ["--model", "recipe_toy:net", "--input", "4,3,12,12"]
        lines.append(["convert", "toy.pt", "--to", "acon_c", "-o", "toy", *toy])
    for line in lines:
        if run_child(lambda line=line: run(line), folder) != 0:  # type: ignore[misc]
            raise SystemExit(f"cannot prepare: {line}")


def main(names: list[str], every: int = 1) -> int:
    torch.set_num_threads(1)
    bad = 0
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / "prepared").mkdir()
        prepare(root / "prepared")
        print(f"{'command':32} {'stops':>6} {'absent':>7} {'old':>5} {'complete':>9} {'bad':>4}")
        for name in names or CASES:
            command, output = CASES[name]
            after, work = root / "after", root / "work"
            shutil.copytree(root / "prepared", after)
            if run_child(command, after) != 0:
                print(f"{name:32} does not run")
                bad += 1
            else:
                work.mkdir()
                state = judge(output, root / "prepared", after)
                if name.startswith("session"):
                    state = cache_state
                stops = None if every == 1 else range(1, 10_000, every)
                found = kill_everywhere(command, root / "prepared", state, work, stops=stops)
                bad += len(found.bad)
                print(
                    f"{name:32} {found.stops:6} {found.absent:7} {found.old:5} {found.complete:9} {len(found.bad):4}",
                    flush=True,
                )
                for line in found.bad[:5]:
                    print("   ", line)
                shutil.rmtree(work)
            shutil.rmtree(after)
    return int(bad > 0)


def cache_state(folder: Path) -> str:
    """State of the cache: each entry in it must be whole."""
    from actswap.onnx import cache

    entries = list((folder / "cache").glob("*.prepared")) if (folder / "cache").exists() else []
    if not entries:
        return "absent"
    whole = all(cache.read(entry.stem, folder / "cache") is not None for entry in entries)
    return "complete" if whole else "damaged"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="commands of the table; all by default")
    parser.add_argument("--every", type=int, default=1, help="stop at each N-th change only")
    given = parser.parse_args()
    sys.exit(main(given.names, given.every))
