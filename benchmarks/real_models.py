"""The main job on real and on randomly initialised networks: what was replaced, at what beta, with what parity.

    python benchmarks/real_models.py            # networks with real weights, and architectures with random ones
    python benchmarks/real_models.py --only squeezenet --targets acon_c meta_acon

Writes a dated table to benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import realmodels

import actswap

RANDOM = {
    "resnet18": 17,
    "resnet50": 49,
    "googlenet": 57,
    "mobilenet_v3_small": 33,
    "densenet121": 121,
    "timm:convnext_tiny": 18,
}


def random_model(name: str) -> torch.nn.Module:
    from actswap.io.torchvision_import import import_library

    torch.manual_seed(0)
    if name.startswith("timm:"):
        import_library("torchvision")
        return import_library("timm").create_model(name.removeprefix("timm:")).eval()
    import_library("torchvision")
    from torchvision import models

    extra = {"init_weights": False} if name == "googlenet" else {}
    return models.get_model(name, weights=None, **extra).eval()


def row(name: str, model: torch.nn.Module, example: torch.Tensor, target: str, sites: int, real=None) -> str:
    keys = set(model.state_dict())
    start = time.perf_counter()
    result = actswap.convert(model, target, example)
    seconds = time.perf_counter() - start
    report = result.report
    betas = [r.beta for r in report.replaced if r.beta is not None]
    prelu = {f"{r.site.owner}.{r.site.child}".strip(".") for r in report.replaced}
    lost = [k for k in keys - set(result.model.state_dict()) if k.rpartition(".")[0] not in prelu]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        actswap.save(result.model, out / "bundle")
        size = sum(f.stat().st_size for f in (out / "bundle").iterdir()) / 2**20
        onnx = actswap.export_onnx(result.model, example[:1], out / "m.onnx")
        rel = max(p.relative for p in onnx.parity)
        onnx_size = (out / "m.onnx").stat().st_size / 2**20
    accuracy, error = "", report.parity.rel
    if real is not None:
        before, after = real.accuracy(model), real.accuracy(result.model)
        accuracy = f"{before} -> {after}"
        error = actswap.verify(model, result.model, real.inputs()).rel
    back = actswap.revert(result.model)
    same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values(), strict=True))
    starts = ", ".join(f"{k} {v}" for k, v in Counter(r.start for r in report.replaced).items())
    beta = f"{min(betas):.3g}..{max(betas):.3g}" if betas else "-"
    return (
        f"{name:20s} {target:10s} {len(report.replaced):3d}/{sites:<3d} left {len(report.left):<2d} {starts:22s} "
        f"beta {beta:16s} rel {error:.1e} census {report.census.complete} keys lost {len(lost)} revert {same} "
        f"onnx {rel:.1e} bundle {size:.1f} MiB onnx {onnx_size:.1f} MiB {seconds:5.1f} s  {accuracy}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--targets", nargs="*", default=["acon_c", "meta_acon"])
    options = parser.parse_args()
    lines = []
    for name in [*realmodels.REAL, *RANDOM]:
        if options.only and name not in options.only:
            continue
        for target in options.targets:
            if name in realmodels.REAL:
                real = realmodels.REAL[name]
                example = real.inputs()[:: max(len(real.inputs()) // 4, 1)]  # 4 of the samples; the error is of all
                lines.append(row(name, real.build(), example, target, real.sites, real))
            else:
                lines.append(row(name, random_model(name), torch.randn(2, 3, 96, 96), target, RANDOM[name]))
            print(lines[-1], flush=True)
    if not options.only:
        day = datetime.date.today().isoformat()
        head = f"{day}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n"
        (Path(__file__).parent / "results" / f"real_models-{day}.txt").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
