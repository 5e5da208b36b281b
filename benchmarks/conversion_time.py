"""How long a conversion takes: beside torch.fx on resnet50, and on a transformer of 1e9 parameters on the meta device.

    python benchmarks/conversion_time.py

CPU time of one thread, interleaved, medians of ratios; writes a dated line to benchmarks/results.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

import actswap
from actswap.io.torchvision_import import import_library

ROUNDS = 5


def against_fx() -> str:
    """scan + convert of resnet50 over symbolic_trace + shape propagation, with and without the search of beta."""
    import_library("torchvision")
    from torchvision import models

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
    with torch.device("meta"):
        layer = torch.nn.TransformerEncoderLayer(2048, 16, 8192, batch_first=True, activation="gelu")
        model = torch.nn.TransformerEncoder(layer, 20, enable_nested_tensor=False).eval()
        x = torch.randn(1, 16, 2048)
    count = sum(p.numel() for p in model.parameters())
    found = []
    seconds = timed(lambda: found.append(actswap.convert(model, "acon_c", x, inplace=True)))
    replaced = len(found[0].report.replaced)
    return f"transformer on meta: {count / 1e9:.2f}e9 parameters, {replaced} sites replaced, {seconds:.1f} s"


def timed(work) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def main() -> None:
    torch.set_num_threads(1)
    lines = [on_meta(), against_fx()]
    day = datetime.date.today().isoformat()
    head = f"{day}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, CPU time of one thread\n"
    print("\n".join(lines))
    (Path(__file__).parent / "results" / f"conversion_time-{day}.txt").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
