"""The proof matrix: a frozen pretrained network, few images of a new task, and what training only a part of it gives.

    python benchmarks/proof.py run                          # SqueezeNet -> 600 Fashion-MNIST images, 2 seeds
    python benchmarks/proof.py run --methods head lora1 --seeds 1 --images 100
    python benchmarks/proof.py table

SqueezeNet 1.1 with its ImageNet weights gets a head for ten classes and learns from so many images of Fashion-MNIST at
64 pixels. Methods: `head` alone; `bias` and `activations`, each with the head (activations: ACON-C by `convert`, the
start that preserves); `loraR`, low-rank updates of rank R in every convolution (built here), with the head; `all`. The
rate of every method is chosen for each seed from the same two by accuracy on 200 further images. Then 1,000 test images
are scored once. This gives first figures, not the matrix: two rates, five epochs, one network, one task. Every run is a
line of results/proof.jsonl; runs that are in it are not run again.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import fashion
import torch
from accuracy import machine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import realmodels

from actswap.conversion.head import new_head
from actswap.conversion.pipeline import convert
from actswap.train import Data, TuneConfig, tune

FILE = Path(__file__).parent / "results" / "proof.jsonl"
METHODS = ("head", "bias", "lora1", "activations", "all")
RATES = (0.005, 0.02)
CONFIG = TuneConfig(batch=20, weight_decay=0.0, augment=("flip",), accelerator="cpu", log_every=1000)
EPOCHS, SIDE, JUDGED, SCORED = 5, 64, 200, 1000


class LowRank(nn.Module):
    """A convolution with an update of low rank: W x + U (V x); U is zero at the start."""

    def __init__(self, conv: nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.conv = conv
        self.down = nn.Conv2d(conv.in_channels, rank, conv.kernel_size, conv.stride, conv.padding, bias=False)
        self.up = nn.Conv2d(rank, conv.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.up(self.down(x))


def prepared(images: Tensor) -> Tensor:
    """Fashion-MNIST as SqueezeNet takes it: 64 pixels, three channels BGR, 0 to 255 minus the means."""
    grey = (images * fashion.DEVIATION + fashion.MEAN) * 255
    wide = F.interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    return wide - torch.tensor([104.006, 116.669, 122.679]).reshape(1, 3, 1, 1)


def network(method: str, seed: int, images: Tensor) -> tuple[nn.Module, str]:
    """The pretrained network ready for a method, and the list of what trains."""
    torch.manual_seed(seed)
    model = realmodels.REAL["squeezenet"].build()
    train = "head" if method == "head" else "all" if method == "all" else f"{method},head"
    if method == "activations":
        model = convert(model, "acon_c", images[:8], calibration=list(images[:64].split(16)), verify="outputs").model
    new_head(model, 10, (images[:2],), seed=seed)
    if method.startswith("lora"):
        rank = int(method.removeprefix("lora"))
        for name, conv in list(model.named_modules()):
            if isinstance(conv, nn.Conv2d) and not conv.__dict__.get("_actswap_head"):
                owner, _, last = name.rpartition(".")
                setattr(model.get_submodule(owner), last, LowRank(conv, rank))
        train = r"re:\.(up|down)\.weight$,head"
    return model, train


def run(method: str, seed: int, count: int, whole: Data) -> dict[str, Any]:
    """Choose the rate on images that are neither trained on nor tested, then score the best network."""
    began = time.process_time()
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(seed))
    x, y = whole.train.tensors  # type: ignore[attr-defined]
    rows, more = order[:count], order[count : count + JUDGED]
    train, judge = (TensorDataset(prepared(x[r]), y[r]) for r in (rows, more))
    start, parts = network(method, seed, train.tensors[0])
    tried: list[tuple[float, float, nn.Module, int]] = []
    for rate in RATES:
        model = copy.deepcopy(start)
        settings = {**CONFIG.to_dict(), "epochs": EPOCHS, "lr": rate, "seed": seed, "train": parts}
        settings.update(schedules={}, augment=CONFIG.augment, on_divergence="ignore", clip=1.0)
        report = tune(model, Data(train, judge), TuneConfig(**settings))
        tried.append((report.after["score"], rate, model, report.trained))
    judged, rate, model, parameters = max(tried, key=lambda row: row[0])
    seconds = time.process_time() - began
    tests, truth = whole.valid.tensors  # type: ignore[union-attr]
    chosen = torch.randperm(len(tests), generator=torch.Generator().manual_seed(0))[:SCORED]
    with torch.no_grad():
        right = sum(int((model(prepared(tests[r])).argmax(1) == truth[r]).sum()) for r in chosen.split(250))
    return {
        "task": f"fashion-mnist {count} images, {SIDE} px",
        "network": "squeezenet",
        "method": method,
        "images": count,
        "seed": seed,
        "rate": rate,
        "epochs": EPOCHS,
        "parameters": parameters,
        "judged": judged,
        "accuracy": right / SCORED,
        "scored": SCORED,
        "cpu_s": round(seconds, 1),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }


def finished() -> list[dict[str, Any]]:
    """All finished runs."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def table() -> None:
    """Print accuracy by method, and the difference to `head` on the same seeds."""
    rows = finished()
    for count in sorted({row["images"] for row in rows}):
        print(f"squeezenet -> fashion-mnist, {count} images: test accuracy in %, difference to head by seed")
        head = {row["seed"]: row["accuracy"] for row in rows if row["method"] == "head" and row["images"] == count}
        for method in METHODS:
            found = [row for row in rows if row["method"] == method and row["images"] == count]
            if not found:
                continue
            gains = [f"{100 * (row['accuracy'] - head[row['seed']]):+.1f}" for row in found if row["seed"] in head]
            mean = 100 * statistics.mean(row["accuracy"] for row in found)
            seconds = statistics.mean(row["cpu_s"] for row in found)
            shown = f"{found[0]['parameters']:>9,} parameters, {seconds:.0f} CPU s"
            print(f"  {method:12} {mean:6.2f}  ({', '.join(gains)})  {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["run", "table"])
    parser.add_argument("--methods", nargs="*", default=[m for m in METHODS if m != "all"])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.part == "run":
        torch.set_num_threads(1)
        whole = fashion.official()
        done = {(row["method"], row["images"], row["seed"]) for row in finished()}
        for seed in range(arguments.seeds):
            for method in arguments.methods:
                if (method, arguments.images, seed) not in done:
                    line = json.dumps(run(method, seed, arguments.images, whole))
                    with FILE.open("a") as file:
                        file.write(line + "\n")
                    print(line, flush=True)
    table()


if __name__ == "__main__":
    main()
