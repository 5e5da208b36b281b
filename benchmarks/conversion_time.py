"""How long a conversion takes: beside torch.fx on resnet50, and on a transformer of 1e9 parameters on the meta device.

    python benchmarks/conversion_time.py
    python benchmarks/conversion_time.py --against OTHER     (a folder with another version of actswap)

CPU time of one thread, interleaved, medians of ratios; writes a dated line to benchmarks/results. Against another
version: scan + convert to acon_c of resnet50, a ViT and the meta model, each in a process of its own, and what the
proof adds in units of one forward and backward pass of the model.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

import actswap

ROUNDS = 5


def against_fx() -> str:
    """scan + convert of resnet50 over symbolic_trace + shape propagation, with and without the search of beta."""
    models = torchvision_models()

    torch.manual_seed(0)
    model, x = models.resnet50(weights=None).eval(), torch.randn(1, 3, 224, 224)

    def traced() -> None:
        with torch.no_grad():
            ShapeProp(fx.symbolic_trace(model)).propagate(x)

    ways = {
        "exact start, verified": lambda: actswap.convert(model, "dy_relu_b", x),
        "exact start, not verified": lambda: actswap.convert(model, "dy_relu_b", x, verify=False),
        "acon_c, beta searched and verified": lambda: actswap.convert(model, "acon_c", x),
        "scan alone": lambda: actswap.scan(model, x),
        "scan, then convert from it (exact start, verified)": lambda: actswap.convert(
            model, "dy_relu_b", x, scanned=actswap.scan(model, x)
        ),
    }
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        base = timed(traced)
        for name, way in ways.items():
            ratios[name].append(timed(way) / base)
    return "resnet50, ratio to symbolic_trace + ShapeProp: " + ", ".join(
        f"{name} {statistics.median(r):.1f}" for name, r in ratios.items()
    )


def on_meta() -> str:
    """A transformer of about 1e9 parameters, converted in place on the meta device."""
    model, x = meta_model()
    count = sum(p.numel() for p in model.parameters())
    found = []
    seconds = timed(lambda: found.append(actswap.convert(model, "acon_c", x, inplace=True)))
    replaced = len(found[0].report.replaced)
    return f"transformer on meta: {count / 1e9:.2f}e9 parameters, {replaced} sites replaced, {seconds:.1f} s"


def meta_model():
    """Return a transformer of about 1e9 parameters on the meta device, and its input."""
    with torch.device("meta"):
        layer = torch.nn.TransformerEncoderLayer(2048, 16, 8192, batch_first=True, activation="gelu")
        model = torch.nn.TransformerEncoder(layer, 20, enable_nested_tensor=False).eval()
        x = torch.randn(1, 16, 2048)
    return model, x


def torchvision_models():
    """Import torchvision's models; an older actswap has no helper for a torch that torchvision was not built for."""
    try:
        from actswap.io.torchvision_import import import_library

        import_library("torchvision")
    except ImportError:
        import importlib

        for operator in ("nms", "qnms"):
            LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
    from torchvision import models

    return models


LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
MODELS = ("resnet50", "vit_b_16", "meta")


def built(name: str):
    """Return the model and its input."""
    if name == "meta":
        return meta_model()
    models = torchvision_models()

    torch.manual_seed(0)
    return getattr(models, name)(weights=None).eval(), torch.randn(1, 3, 224, 224)


def one(name: str) -> None:
    """Print the seconds of scan + convert, and of one forward and backward pass, for `against`."""
    torch.set_num_threads(1)
    model, x = built(name)
    actswap.convert(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), "acon_c", torch.randn(8, 4))  # imports
    whole = timed(lambda: (actswap.scan(model, x), actswap.convert(model, "acon_c", x, inplace=name == "meta")))
    passes = [timed(lambda: model.train()(x).sum().backward()) for _ in range(0 if name == "meta" else 3)]
    print(json.dumps([whole, min(passes, default=0.0)]))


def against(other: Path) -> str:
    """Return the seconds of scan + convert here and in another version, interleaved, and the ratio of medians."""
    lines = []
    for name in MODELS:
        found: dict[str, list[list[float]]] = {"here": [], "other": []}
        for _ in range(3):
            for label, tree in (("other", other), ("here", Path(__file__).parents[1])):
                command = [sys.executable, __file__, "--one", name]
                environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
                out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
                found[label].append(json.loads(out.splitlines()[-1]))
        here, there = (statistics.median(row[0] for row in found[k]) for k in ("here", "other"))
        text = f"{name}: scan + convert {there:.2f} s before, {here:.2f} s now, ratio {here / there:.2f}"
        unit = statistics.median(row[1] for row in found["here"])
        lines.append(text + (f", {(here - there) / unit:.1f} forward and backward passes more" if unit else ""))
    return "\n".join(lines)


def timed(work) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a folder with another version of actswap")
    parser.add_argument("--one", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return
    torch.set_num_threads(1)
    lines = [against(options.against)] if options.against else [on_meta(), against_fx()]
    day = datetime.date.today().isoformat()
    head = f"{day}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, CPU time of one thread\n"
    print("\n".join(lines))
    name = f"conversion_time{'-against' if options.against else ''}-{day}.txt"
    (Path(__file__).parent / "results" / name).write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
