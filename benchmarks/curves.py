"""Training curves of every trainable target beside ReLU, at one learning rate shared with the weights.

    python benchmarks/curves.py                  # 13 targets, 4 rates, 5 seeds, 2 sources: about 15 minutes
    python benchmarks/curves.py --targets hp1 hp2 --seeds 2

The network is small and untrained: two convolutions with BatchNorm on noise whose channel means decide the class. It is
converted with the target's own start (`fit`, `limit` or `exact`), then trained for two epochs by SGD with momentum 0.9
and a constant rate. Calibration sees the network in eval mode before its BatchNorms know the data, so the range that a
Padé unit is fitted on is not the one it trains on: a hard case. A run has diverged if its loss is not finite, or its
last losses exceed twice the first one. Exit code 1 if a target diverges at a rate at which ReLU does not.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import math
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from actswap.activations import TRAINABLE
from actswap.conversion.pipeline import convert
from actswap.train import param_groups

RATES = (0.1, 0.05, 0.01, 0.001)
SOURCES = {"relu": nn.ReLU, "gelu": nn.GELU}
RESULTS = Path(__file__).parent / "results"
EPOCHS, BATCH, LAST = 2, 64, 12


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """1536 noise images (3, 16, 16) and the class that a fixed matrix gives to their channel means."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2048, 3, 16, 16, generator=generator)
    labels = (images.mean((2, 3)) @ torch.randn(3, 5, generator=generator)).argmax(1)
    return images[:1536], labels[:1536]


def network(activation: type[nn.Module]) -> nn.Module:
    """Two convolutions with BatchNorm and an activation each."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), activation(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), activation(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def start(source: str, target: str, images: torch.Tensor) -> nn.Module:
    """The network with this source, converted to the target with its own start, whatever that costs."""
    model = network(SOURCES[source]).eval()
    if target == source:
        return model
    kind = next(spec for spec in TRAINABLE if spec.name == target).promise(_source(source))
    # A fit of a (5,4) rational changes the outputs of this network: the tolerance is no matter here.
    return convert(model, target, images[:256], start=kind if kind == "fit" else "auto", tolerance=1e3).model


def _source(name: str):
    from actswap.sites import Source

    return Source(name)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, rate: float, seed: int) -> list[float]:
    """The loss of every step; the list ends at the first loss that is not finite."""
    groups = param_groups(model, weight_decay=5e-4, lr=rate)
    optimizer = torch.optim.SGD([{k: v for k, v in g.items() if k != "name"} for g in groups], momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    losses: list[float] = []
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return losses
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


def diverged(losses: list[float]) -> bool:
    """True if the loss is not finite, or has at least doubled."""
    return not all(map(math.isfinite, losses)) or statistics.mean(losses[-LAST:]) > 2.0 * losses[0]


def draw(rows: list[dict], path: Path) -> None:
    """Mean loss by step: one panel per rate, one line per target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sources = list(dict.fromkeys(row["source"] for row in rows))
    names = [spec.name for spec in TRAINABLE]  # a target has the same colour in every panel
    figure, axes = pyplot.subplots(
        len(sources), len(RATES), figsize=(4 * len(RATES), 3.2 * len(sources)), squeeze=False, layout="constrained"
    )
    for line, source in zip(axes, sources, strict=True):
        for panel, rate in zip(line, RATES, strict=True):
            for k, target in enumerate([source, *names]):
                runs = [r["losses"] for r in rows if (r["source"], r["target"], r["rate"]) == (source, target, rate)]
                if not runs:
                    continue
                mean = [statistics.mean(step) for step in zip(*runs, strict=False)]
                plain = target == source
                panel.plot(mean, color="k" if plain else f"C{k % 10}", lw=2.5 if plain else 1, label=target,
                           ls="-" if k <= 10 else "--")  # fmt: skip
            panel.set_title(f"{source} network, lr {rate:g}", fontsize=9)
            panel.set_ylim(0.5, 2.0)
    for line in axes:
        line[-1].legend(fontsize=6, ncols=2)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=[spec.name for spec in TRAINABLE])
    parser.add_argument("--sources", nargs="*", default=list(SOURCES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = data()
    rows: list[dict] = []
    file = RESULTS / f"curves-{datetime.date.today().isoformat()}.jsonl"
    if file.exists() and not arguments.no_write:  # finished pairs are not run again
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    finished = {(row["source"], row["target"]) for row in rows}
    for source in arguments.sources:
        for target in [source, *arguments.targets]:
            if (source, target) in finished:
                continue
            shown, new, model = [], [], start(source, target, images)
            for rate in RATES:
                runs = [train(copy.deepcopy(model), images, labels, rate, s) for s in range(arguments.seeds)]
                new += [
                    {
                        "source": source,
                        "target": target,
                        "rate": rate,
                        "seed": seed,
                        "diverged": diverged(run),
                        "losses": run,
                    }
                    for seed, run in enumerate(runs)
                ]
                last = statistics.mean(statistics.mean(run[-LAST:]) for run in runs)
                shown.append(f"{last:.3f} ({sum(map(diverged, runs))})")
            print(f"{source:5} {target:12} " + "  ".join(shown), flush=True)
            rows += new
            if not arguments.no_write:
                with file.open("a") as out:
                    out.writelines(json.dumps({**r, "losses": [round(v, 4) for v in r["losses"]]}) + "\n" for r in new)
    plain = {(r["source"], r["rate"]): False for r in rows}
    for r in rows:
        plain[r["source"], r["rate"]] |= r["diverged"] and r["target"] == r["source"]
    bad = [r for r in rows if r["diverged"] and not plain[r["source"], r["rate"]]]
    print(f"{len(rows)} runs, {len(bad)} diverged where the plain network does not: mean of the last {LAST} losses at "
          f"rates {RATES}, diverged runs in brackets")  # fmt: skip
    if not arguments.no_write:
        draw(rows, file.with_suffix(".png"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
