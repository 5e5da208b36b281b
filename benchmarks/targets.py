"""Every target on networks with real weights: what the network computes right after conversion, before any training.

    python benchmarks/targets.py                   # SqueezeNet (ReLU) and EfficientNet-Lite0 (ReLU6)
    python benchmarks/targets.py --only squeezenet

The default start within the tolerance 1e-3; then, for the Padé units, the fit itself without a tolerance: of three
degrees, with a naive range of [-3, 3] beside the calibrated one. Calibration uses ten of the twenty photos, accuracy
and error are those of the other ten; morph stands at t = 0. Writes a dated table to benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import realmodels

import actswap
from actswap.activations import TRAINABLE
from actswap.activations.base import StartContext
from actswap.activations.bounded import split
from actswap.checks.parity import compare, run
from actswap.conversion.passes.replace import load_start
from actswap.fit.histogram import Histogram

DEGREES = ((5, 4), (7, 6), (9, 8))


def naive(model: torch.nn.Module, plan, spec, options) -> None:
    """Start every site from a uniform range of [-3, 3], as published coefficients do."""
    for choice in plan.choices:
        core, _, _ = split(choice.site.source)
        start = spec.start(core, StartContext(100.0, Histogram.uniform(-3.0, 3.0), options))
        load_start(model.get_submodule(choice.path), start.params)


def judged(real, model, reference, inputs, labels) -> str:
    with torch.no_grad():
        out = model(inputs)
    right = int((real.scores(out).argmax(1) == labels).sum())
    return f"error {compare(reference, [out]).rel:8.1e}  top-1 {right}/{len(labels)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["squeezenet", "efficientnet_lite0"])
    options = parser.parse_args()
    torch.manual_seed(0)
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    for name in options.only:
        real = realmodels.REAL[name]
        model, photos, labels = real.build(), real.inputs(), real.labels()
        seen, unseen, truth = photos[::2], photos[1::2], labels[1::2]
        reference = run(model, (unseen,))
        tell(f"{name}: original {judged(real, model, reference, unseen, truth)}")
        for spec in TRAINABLE:
            if spec.name == "acon_frelu":
                continue  # its second branch is a new convolution: no start preserves
            result = actswap.convert(model, spec.name, seen[:2], calibration=[seen[i : i + 2] for i in (2, 4, 6, 8)])
            starts = ", ".join(f"{k} {n}" for k, n in Counter(r.start for r in result.report.replaced).items())
            tell(f"  {spec.name:10s} auto  {starts:22s} {judged(real, result.model, reference, unseen, truth)}")
        for target in ("pau", "opau"):
            spec = actswap.activations.get(target)
            for degrees in DEGREES:
                chosen = {"degrees": degrees}
                result = actswap.convert(
                    model, target, seen[:2], calibration=[seen], start="fit", tolerance=1e9, options=chosen
                )
                calibrated = judged(real, result.model, reference, unseen, truth)
                naive(result.model, result.plan, spec, chosen)
                tell(f"  {target:5s}{degrees}  fit   calibrated {calibrated}")
                tell(f"  {target:5s}{degrees}  fit   [-3, 3]    {judged(real, result.model, reference, unseen, truth)}")
    day = datetime.date.today().isoformat()
    head = f"{day}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n"
    (Path(__file__).parent / "results" / f"targets-{day}.txt").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
