"""Accuracy on Fashion-MNIST: what each activation gives after conversion and fine-tuning, and from scratch.

    python benchmarks/accuracy.py base                      # train the ReLU network once
    python benchmarks/accuracy.py finetune --seeds 5        # (a) convert, check, fine-tune with equal budgets
    python benchmarks/accuracy.py scratch --seeds 5         # (b) every activation from random weights
    python benchmarks/accuracy.py table                     # tables and pictures from the finished runs

Every finished run is one line of results/accuracy.jsonl; runs that are in it are not run again, so the
script can be stopped at any time. Seeds are the outer loop: a stop leaves complete seeds. One thread,
official split; the test set is used once per run and nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fashion
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from actswap.checks.cost import measure
from actswap.checks.parity import verify
from actswap.conversion.pipeline import convert
from actswap.train import Data, Ramp, TuneConfig, tune

HERE = Path(__file__).parent
RESULTS = HERE / "results/accuracy.jsonl"
BASE = TuneConfig(epochs=6, batch=128, lr=0.1, weight_decay=5e-4, augment=("flip",))
FINETUNE = TuneConfig(epochs=0.5, batch=128, lr=0.02, weight_decay=5e-4, augment=("flip",))
SCRATCH = TuneConfig(epochs=1, batch=128, lr=0.1, weight_decay=5e-4, augment=("flip",))
MORPH = {"morph": Ramp(0.0, 1.0, 0.0, 0.5)}


@dataclass(frozen=True)
class Variant:
    """A target and how it starts; `naive` draws p1, p2 and sets beta as the public code does."""

    target: str
    options: dict[str, Any] = field(default_factory=dict)
    convert: dict[str, Any] = field(default_factory=dict)
    naive: bool = False


VARIANTS = {
    "relu": None,
    "acon_c": Variant("acon_c"),
    "acon_c naive": Variant("acon_c", naive=True),
    "meta_acon": Variant("meta_acon"),
    "dy_relu_b": Variant("dy_relu_b"),
    "pau": Variant("pau"),
    "swish": Variant("swish"),
}


def machine() -> str:
    """Processor, threads and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {torch.get_num_threads()} thread, torch {torch.__version__}"


def base_network(cache: Path) -> nn.Module:
    """Return the trained ReLU network."""
    file = cache / "base.safetensors"
    if not file.exists():
        raise SystemExit(f"{file} is missing; first: python benchmarks/accuracy.py base --cache {cache}")
    model = fashion.SmallResNet()
    model.load_state_dict(load_file(file))
    return model.eval()


def converted(model: nn.Module, variant: Variant | None, data: Data) -> tuple[nn.Module, dict[str, Any]]:
    """Convert, calibrated on the first 512 training images; parity on the first 1000 test images."""
    if variant is None:
        return model, {"rel": 0.0, "starts": ""}
    images = data.train.tensors[0][:512]
    result = convert(
        model, variant.target, images[:128], calibration=[images[i : i + 128] for i in range(0, 512, 128)],
        options=variant.options or None, **variant.convert,
    )  # fmt: skip
    if variant.naive:
        with torch.no_grad():
            for module in result.model.modules():
                if hasattr(module, "p1"):
                    module.p1.normal_(), module.p2.normal_(), module.log_beta.zero_()
    parity = verify(model, result.model, data.valid.tensors[0][:1000])
    starts = sorted({choice.start.kind for choice in result.plan.choices})
    return result.model, {"rel": parity.rel, "starts": "naive" if variant.naive else "+".join(starts)}


def train_base(data: Data, cache: Path) -> None:
    """Train the ReLU network that all conversions start from."""
    torch.manual_seed(0)
    model = fashion.SmallResNet()
    row = timed(model, data, BASE)
    cache.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), cache / "base.safetensors")
    write({"part": "base", "variant": "relu", "seed": 0, **row})


def run(part: str, name: str, seed: int, data: Data, cache: Path) -> None:
    """Make and train one network and write its line.

    (a) converts the trained network; (b) converts an untrained one, so that the activation starts where ReLU
    is there too, and all variants of a seed share the other initial weights, the order and the augmentation.
    """
    torch.manual_seed(seed)
    source = base_network(cache) if part == "finetune" else fashion.SmallResNet()
    model, start = converted(source, VARIANTS[name], data)
    config = replace(FINETUNE if part == "finetune" else SCRATCH, seed=seed)
    if "morph" in start["starts"]:
        config = replace(config, schedules=MORPH)
    parameters = sum(p.numel() for p in model.parameters())
    row = {"part": part, "variant": name, "seed": seed, "parameters": parameters, **start}
    write({**row, **timed(model, data, config)})


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
        "operators": operators(),
    }


def operators() -> str:
    """Who computes the activations: `native` kernels, or `eager` PyTorch formulas."""
    try:
        from actswap.ops import native
    except ImportError:
        return "eager"
    return "native" if native.status().available else "eager"


def write(row: dict[str, Any]) -> None:
    """Append a finished run."""
    today = datetime.date.today().isoformat()
    line = json.dumps({"schema": 1, **row, "date": today, "machine": machine()})
    with RESULTS.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def finished() -> list[dict[str, Any]]:
    """Return all finished runs."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def flops(name: str) -> int | None:
    """Return the operations of one image, by fvcore with this project's handles."""
    variant, images = VARIANTS[name], torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model: nn.Module = fashion.SmallResNet().eval()
    if variant is not None:
        model = convert(model, variant.target, images, options=variant.options or None, verify=False).model
    return measure(model, (images[:1],)).flops


def budget(part: str, images: int) -> int:
    """Return the training images that a run sees, repetitions counted."""
    config = FINETUNE if part == "finetune" else SCRATCH
    return round(config.epochs * (images // config.batch)) * config.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["base", "finetune", "scratch", "table"])
    parser.add_argument("--data", type=Path, help="folder of the idx.gz files; fetched with apt-get if absent")
    parser.add_argument("--cache", type=Path, default=HERE / ".cache", help="downloads, the base network")
    parser.add_argument("--images", type=int, default=60_000, help="keep the first so many training images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    if arguments.part == "table":
        import accuracy_table

        accuracy_table.main(finished(), {name: flops(name) for name in VARIANTS}, RESULTS.parent)
        return
    torch.set_num_threads(1)
    data = fashion.load(arguments.data or fashion.fetch(arguments.cache), arguments.images)
    if arguments.part == "base":
        train_base(data, arguments.cache)
        return
    done = {(row["part"], row["images"], row["variant"], row["seed"]) for row in finished()}
    for seed in range(arguments.seeds):
        for name in arguments.variants:
            if (arguments.part, budget(arguments.part, arguments.images), name, seed) not in done:
                run(arguments.part, name, seed, data, arguments.cache)


if __name__ == "__main__":
    main()
