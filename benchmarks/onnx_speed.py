"""Latency of converted networks in ONNX Runtime, as ratios to the original network in the same runtime.

    python benchmarks/onnx_speed.py resnet50 mobilenet_v2 --threads 1 2 --batches 1 8 --rounds 15

Random weights, batch-norm statistics from random images. Each activation is measured three ways: `auto` (prepared for
this machine), `native` (kernels on the file as it is) and `portable` (plain ONNX Runtime). Contenders take turns;
one thread is CPU time, more are wall time. The rows go to benchmarks/results/onnx.jsonl.
"""

# ruff: noqa: E402
import sys
from pathlib import Path

# This folder would otherwise be searched first, and this file is called onnx.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import datetime
import json
import platform
import tempfile

import numpy as np
import onnxruntime
import torch
from torch import nn

try:
    import torchvision
except RuntimeError:  # a CUDA build of torchvision beside a CPU build of torch: its operators must exist
    for _name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[_name]
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

import actswap
from actswap.onnx.bench import Contender, bench
from actswap.onnx.export import export_onnx

RESULTS = Path(__file__).parent / "results" / "onnx.jsonl"
TARGETS = ("acon_c", "pau", "meta_acon", "dy_relu_b")


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None)
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, 128, 128))
    return model.eval()


def converted(model: nn.Module, target: str, x: torch.Tensor) -> nn.Module:
    start = "fit" if target == "pau" else "auto"  # the fit of a rational, not a morph that runs both
    return actswap.convert(model, target, x, start=start, calibration=[x], verify=False).model


def measure(name: str, targets: list[str], folder: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    model, x = network(name), torch.randn(2, 3, args.size, args.size)
    original = folder / f"{name}.onnx"
    export_onnx(model, x, original, check=False, dynamic_size=False)
    contenders = [Contender("original", original, "portable")]
    parity = {}
    for target in targets:
        file = folder / f"{name}_{target}.onnx"
        changed = converted(model, target, x)
        report = export_onnx(changed, x, file, dynamic_size=False)
        session = actswap.onnx.session(file)
        with torch.no_grad():
            want = changed(x).numpy()
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        parity[target] = {
            "portable": report.parity[0].relative,
            session.actswap_way: float(np.abs(got - want).max() / np.abs(want).max()),
        }
        contenders += [Contender(f"{target} {way}", file, way) for way in args.ways]
    report = bench(contenders, x, batches=args.batches, threads=args.threads, rounds=args.rounds)
    rows = []
    for row in report.to_dict()["rows"]:
        target = row["label"].split()[0]
        rows.append({"network": name, "parity": parity.get(target), "rounds": args.rounds, **row})
        print(
            f"{name:14} {row['label']:20} {row['way']:9} threads {row['threads']} batch {row['batch']}"
            f"  median ratio {row['ratio']:.3f}  best {row['best_ratio']:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--ways", nargs="+", default=["auto", "native", "portable"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    machine = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": cpu,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "command": "python benchmarks/onnx_speed.py " + " ".join(sys.argv[1:]),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            for row in measure(name, args.targets, Path(folder), args):
                with RESULTS.open("a") as file:
                    file.write(json.dumps({**machine, **row}) + "\n")


if __name__ == "__main__":
    main()
