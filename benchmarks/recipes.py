"""The ImageNet recipes with a stand-in: their target, start, options and schedules on Fashion-MNIST.

    python benchmarks/recipes.py base       # train the ReLU, SiLU and GELU networks once
    python benchmarks/recipes.py run        # every recipe, three seeds
    python benchmarks/recipes.py table      # the finished runs; --write puts them into the recipe files

A stand-in says whether a recipe's settings keep and improve a trained network, not what it gives on ImageNet. What is
taken over: target, options, start, tolerance, tuning; what is not: the network, the selection by its site names, the
budget (one epoch), the batch (128, the learning rates scaled with it), EMA (longer than the whole run). One line of
results/recipes.jsonl per run; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fashion
import torch
from accuracy import machine
from safetensors.torch import load_file, save_file
from torch import nn

from actswap.conversion.pipeline import convert
from actswap.recipe import Recipe, read_recipe
from actswap.train import TuneConfig, tune

HERE = Path(__file__).parent
RESULTS = HERE / "results/recipes.jsonl"
RECIPES = HERE.parent / "recipes"
BATCH = 128
BASE = TuneConfig(epochs=3, batch=BATCH, lr=0.1, weight_decay=5e-4, augment=("flip",))
ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def network(kind: str) -> nn.Module:
    """The small ResNet with this activation at all seven sites."""
    model = fashion.SmallResNet()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, ACTIVATIONS[kind]())
    return model


def kind_of(recipe: Recipe) -> str:
    """The source that the recipe replaces; its network's own, ReLU where it names none."""
    types = [entry.removeprefix("type:") for entry in recipe.convert.only if entry.startswith("type:")]
    return types[0] if types else "relu"


def stand_in(config: TuneConfig, seed: int) -> TuneConfig:
    """The recipe's settings at this benchmark's budget."""
    share = BATCH / config.batch
    own = None if config.activation_lr is None else config.activation_lr * share
    return replace(
        config, epochs=1, batch=BATCH, lr=config.lr * share, activation_lr=own, ema=None, seed=seed, augment=("flip",),
        checkpoint_every=0, accelerator="cpu", reestimate=min(config.reestimate, 50),
    )  # fmt: skip


def run(path: Path, seed: int, data: Any, cache: Path) -> dict[str, Any]:
    """Convert the trained network by the recipe and fine-tune it."""
    recipe = read_recipe(path, ready=False)
    assert recipe.tune is not None
    torch.manual_seed(seed)
    model = network(kind_of(recipe))
    model.load_state_dict(load_file(cache / f"recipes_{kind_of(recipe)}.safetensors"))
    images, wanted = data.train.tensors[0][:512], recipe.convert
    result = convert(
        model.eval(), wanted.target, images[:128], calibration=[images[i : i + 128] for i in range(0, 512, 128)],
        start=wanted.start, tolerance=wanted.tolerance, options=dict(wanted.options) or None,
    )  # fmt: skip
    config = stand_in(recipe.tune, seed)
    began = time.process_time()
    report = tune(result.model, data, config, teacher=model if config.needs_teacher else None)
    return {
        "recipe": path.name, "seed": seed, "source": kind_of(recipe), "target": wanted.target,
        "starts": "+".join(sorted({c.start.kind for c in result.plan.choices})),
        "rel": result.report.parity.rel if result.report.parity else None,
        "before": report.before["score"], "after": report.after["score"], "lr": config.lr,
        "cpu_s": round(time.process_time() - began, 1),
    }  # fmt: skip


def write(row: dict[str, Any]) -> None:
    """Append a finished run."""
    line = json.dumps({"schema": 1, **row, "date": datetime.date.today().isoformat(), "machine": machine()})
    with RESULTS.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def finished() -> list[dict[str, Any]]:
    """Return all finished runs."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table(rewrite: bool) -> None:
    """Print a line per recipe; with `rewrite`, replace the stand-in entry of each recipe file."""
    rows = finished()
    for name in sorted({row["recipe"] for row in rows if row["recipe"] != "base"}):
        runs = [row for row in rows if row["recipe"] == name]
        before, after = ([100 * run[key] for run in runs] for key in ("before", "after"))
        spread = statistics.stdev(after) if len(after) > 1 else 0.0
        print(f"{name:42} {runs[0]['starts']:10} {before[0]:6.2f} -> {statistics.mean(after):6.2f} +- {spread:.2f}")
        if rewrite:
            text = (RECIPES / name).read_text()
            text = text[: text.index("\n[[measured]]")] if "\n[[measured]]" in text else text
            seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
            spread_said = f", standard deviation over seeds {spread:.2f}" if len(runs) > 1 else ""
            (RECIPES / name).write_text(
                f'{text.rstrip()}\n\n[[measured]]\ndate = "{max(row["date"] for row in runs)}"\n'
                f'what = "stand-in: a {runs[0]["source"]} ResNet of 77,754 parameters on Fashion-MNIST, one epoch, '
                f'{seeds} (python benchmarks/recipes.py run)"\n'
                f"before = {before[0]:.2f}\nafter = {statistics.mean(after):.2f}\n"
                f'note = "start {runs[0]["starts"]}{spread_said}"\n'
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["base", "run", "table"])
    parser.add_argument("--data", type=Path, help="folder of the idx.gz files; fetched with apt-get if absent")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="run: recipe files; base: relu, silu, gelu; all if absent")
    parser.add_argument("--write", action="store_true", help="table: put the results into the recipe files")
    arguments = parser.parse_args()
    if arguments.part == "table":
        table(arguments.write)
        return
    torch.set_num_threads(1)
    data = fashion.load(arguments.data or fashion.fetch(arguments.cache))
    if arguments.part == "base":
        arguments.cache.mkdir(parents=True, exist_ok=True)
        for kind in arguments.only or ACTIVATIONS:
            torch.manual_seed(0)
            model = network(kind)
            report = tune(model, data, BASE)
            save_file(model.state_dict(), arguments.cache / f"recipes_{kind}.safetensors")
            write({"recipe": "base", "seed": 0, "source": kind, "after": report.after["score"]})
        return
    done = {(row["recipe"], row["seed"]) for row in finished()}
    imagenet = [p for p in sorted(RECIPES.glob("*.toml")) if not read_recipe(p, ready=False).data.source]
    for seed in range(arguments.seeds):
        for path in imagenet:
            if (path.name, seed) not in done and (not arguments.only or path.name in arguments.only):
                write(run(path, seed, data, arguments.cache))


if __name__ == "__main__":
    main()
