"""Accuracy on Fashion-MNIST: what each activation gives after conversion and fine-tuning, and from scratch.

    python benchmarks/accuracy.py base                      # train the ReLU network once
    python benchmarks/accuracy.py finetune --seeds 5        # (a) convert, check, fine-tune with equal budgets
    python benchmarks/accuracy.py scratch --seeds 5         # (b) every activation from random weights
    python benchmarks/accuracy.py table                     # tables and pictures from the finished runs

Every finished run is one line of results/accuracy.jsonl; runs that are in it are not run again, so the script can be
stopped at any time. Seeds are the outer loop: a stop leaves complete seeds. One thread, official split, the test set is
used once per run and nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fashion
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actswap.train import Data, TuneConfig, evaluate, tune

HERE = Path(__file__).parent
RESULTS = HERE / "results/accuracy.jsonl"
BASE = TuneConfig(epochs=6, batch=128, lr=0.1, weight_decay=5e-4, augment=("flip",))
FINETUNE = TuneConfig(epochs=1, batch=128, lr=0.05, weight_decay=5e-4, augment=("flip",))
SCRATCH = TuneConfig(epochs=2, batch=128, lr=0.1, weight_decay=5e-4, augment=("flip",))


def machine() -> str:
    """Processor, threads and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    return f"{name}, {torch.get_num_threads()} thread, torch {torch.__version__}"


def base_network(cache: Path) -> nn.Module:
    """Return the trained ReLU network."""
    file = cache / "base.safetensors"
    if not file.exists():
        raise SystemExit(f"{file} is missing; first: python benchmarks/accuracy.py base --cache {cache}")
    model = fashion.SmallResNet()
    model.load_state_dict(load_file(file))
    return model.eval()


def train_base(data: Data, cache: Path) -> None:
    """Train the ReLU network that all conversions start from."""
    torch.manual_seed(0)
    model = fashion.SmallResNet()
    row = timed(model, data, BASE)
    cache.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), cache / "base.safetensors")
    write({"part": "base", "variant": "relu", "seed": 0, **row})


def timed(model: nn.Module, data: Data, config: TuneConfig) -> dict[str, Any]:
    """Train and return scores, the last training loss and CPU seconds."""
    began = time.process_time()
    report = tune(model, data, config)
    losses = [row["loss"] for row in report.metrics if row["kind"] == "train"]
    return {
        "before": report.before["score"],
        "after": report.after["score"],
        "test_loss": report.after["loss"],
        "train_loss": losses[-1],
        "cpu_s": round(time.process_time() - began, 1),
        "epochs": report.epochs,
        "images": report.images,
        "lr": config.lr,
    }


def write(row: dict[str, Any]) -> None:
    """Append a finished run."""
    stamped = {"schema": 1, **row, "date": datetime.date.today().isoformat(), "machine": machine()}
    with RESULTS.open("a") as file:
        file.write(json.dumps(stamped) + "\n")
    print(json.dumps(stamped), flush=True)


def finished() -> list[dict[str, Any]]:
    """Return all finished runs."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["base", "finetune", "scratch", "table"])
    parser.add_argument(
        "--data", type=Path, help="folder with the four idx.gz files; fetched with apt-get where absent"
    )
    parser.add_argument("--cache", type=Path, default=HERE / ".cache", help="downloads and the base network")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = fashion.load(arguments.data or fashion.fetch(arguments.cache))
    if arguments.part == "base":
        train_base(data, arguments.cache)


if __name__ == "__main__":
    main()
