"""Loss curves on Fashion-MNIST from random weights: the Padé units beside ReLU, at ReLU's own rate.

    python benchmarks/fashion_curves.py            # relu pau opau hp1 hp2, 2 seeds: about 8 CPU minutes
    python benchmarks/fashion_curves.py --targets hp2 --seeds 1

The network is that of benchmarks/fashion.py, untrained. It is converted by the fit start, calibrated on training
images, and trained for one epoch on all 60,000 images: SGD with momentum 0.9, OneCycle to 0.1, one rate for the weights
and the activations. All runs of a seed share their initial weights, order and augmentation. Every finished run is a
line of results/fashion_curves.jsonl; runs that are in it are not run again. The picture shows the loss of the batches.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import fashion
import torch
from accuracy import SCRATCH, machine

from actswap.conversion.pipeline import convert
from actswap.train import tune

TARGETS = ("relu", "pau", "opau", "hp1", "hp2")
RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "fashion_curves.jsonl"
SMOOTH = 3  # recorded losses that a point of the picture is the mean of


def run(target: str, seed: int, data: Any) -> dict[str, Any]:
    """Train one network; the losses of every tenth step, and the test accuracy."""
    torch.manual_seed(seed)
    model = fashion.SmallResNet()
    images = data.train.tensors[0][:512]
    if target != "relu":
        batches = list(images.split(128))
        # A (5, 4) rational is no ReLU: the tolerance is no matter for a network that is not trained yet.
        model = convert(model, target, batches[0], calibration=batches, start="fit", tolerance=1e3).model
    report = tune(model, data, replace(SCRATCH, seed=seed, log_every=10))
    losses = [(row["step"], round(row["loss"], 4)) for row in report.metrics if row["kind"] == "train"]
    return {
        "target": target,
        "seed": seed,
        "lr": SCRATCH.lr,
        "accuracy": report.after["score"],
        "test_loss": report.after["loss"],
        "losses": losses,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }


def finished() -> list[dict[str, Any]]:
    """All finished runs."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def draw(rows: list[dict[str, Any]]) -> None:
    """Mean loss over the seeds by step, one line per target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for target in TARGETS:
        runs = [dict(row["losses"]) for row in rows if row["target"] == target]
        if not runs:
            continue
        steps = sorted(set.intersection(*(set(run) for run in runs)))
        mean = [statistics.mean(run[step] for run in runs) for step in steps]
        smooth = [statistics.mean(mean[max(0, k - SMOOTH + 1) : k + 1]) for k in range(len(mean))]
        plain = target == "relu"
        panel.plot(steps, smooth, label=f"{target} ({len(runs)})", color="k" if plain else None, lw=2 if plain else 1)
    panel.set(xlabel="step", ylabel="loss", ylim=(0.25, 1.5), title="Fashion-MNIST from random weights, lr 0.1")
    panel.legend()
    figure.savefig(FILE.with_suffix(".png"), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = fashion.official()
    done = {(row["target"], row["seed"]) for row in finished()}
    for seed in range(arguments.seeds):
        for target in arguments.targets:
            if (target, seed) not in done:
                with FILE.open("a") as out:
                    out.write(json.dumps(run(target, seed, data)) + "\n")
    for target in TARGETS:
        rows = [row for row in finished() if row["target"] == target]
        if rows:
            accuracy = ", ".join(f"{row['accuracy']:.4f}" for row in rows)
            last = statistics.mean(loss for row in rows for _, loss in row["losses"][-10:])
            print(f"{target:5} test accuracy {accuracy}; mean of the last ten recorded losses {last:.3f}")
    draw(finished())


if __name__ == "__main__":
    main()
