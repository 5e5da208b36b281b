"""Latency of converted networks in ONNX Runtime, as ratios to the original network in the same runtime.

    python benchmarks/onnx_speed.py resnet50 --threads 1 2 --batches 1 8
    python benchmarks/onnx_speed.py mobilenet_v2 --threads 1 2 --batches 1 8
    python benchmarks/onnx_speed.py efficientnet_lite0 --threads 1 2 --batches 1 8
    python benchmarks/onnx_speed.py squeezenet --threads 1 2 --batches 1 8
    python benchmarks/onnx_speed.py mobilenet_v2 --trained --targets acon_c
    python benchmarks/onnx_speed.py --operators

EfficientNet-Lite0 and SqueezeNet have their ImageNet weights and see photos (tests/realmodels.py says which packages
hold them); other names are torchvision's, or timm's, with random weights, batch-norm statistics from random images, and
random images of 224 x 224. Each activation is measured three ways: `auto` (prepared for this machine), `native`
(kernels on the file as it is) and `portable` (the same file in a plain ONNX Runtime). Contenders take turns; one thread
is CPU time, more are wall time. `--trained` gives ACON-C parameters as after training (slopes 1 and 0 with deviation
0.1, beta 1 to 20, by channel), so that nothing is left of the function it started from; `--operators` measures single
operators against ONNX Runtime's own Relu. The rows go to benchmarks/results/onnx.jsonl.
"""

# ruff: noqa: E402
import sys
from pathlib import Path

# This folder would otherwise be searched first, and this file is called onnx.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
sys.path.append(str(ROOT / "recipes"))

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections import Counter

import numpy as np
import onnxruntime
import realmodels
import torch
from torch import nn

import actswap
from actswap.activations.acon_c import AconC
from actswap.io.torchvision_import import import_library
from actswap.onnx.bench import Contender, bench
from actswap.onnx.export import export_onnx

torchvision = import_library("torchvision")
RESULTS = Path(__file__).parent / "results" / "onnx.jsonl"
SHAPES = ((1, 64, 28, 28), (64, 256, 56, 56))
TARGETS = ("acon_c", "pau", "meta_acon", "dy_relu_b")


def network(name: str, size: int) -> tuple[nn.Module, torch.Tensor]:
    """The network and two images for it."""
    torch.manual_seed(0)
    if name in realmodels.REAL:
        real = realmodels.REAL[name]
        return real.build().eval(), real.inputs()[:2]
    if hasattr(torchvision.models, name):
        model = getattr(torchvision.models, name)(weights=None)
    else:
        import timm

        model = timm.create_model(name)
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, 128, 128))
    return model.eval(), torch.randn(2, 3, size, size)


def converted(model: nn.Module, target: str, x: torch.Tensor) -> nn.Module:
    start = "fit" if target == "pau" else "auto"  # the fit of a rational, not a morph that runs both
    return actswap.convert(model, target, x, start=start, calibration=[x], verify=False).model


def train(model: nn.Module) -> nn.Module:
    """Parameters as after training."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, AconC):
            for parameter, low, high in ((module.p1, 1.0, 0.1), (module.p2, 0.0, 0.1)):
                nn.init.normal_(parameter, low, high)
            nn.init.uniform_(module.log_beta, 0.0, 3.0)
    return model


def operators(shape: tuple[int, ...], rounds: int) -> list[dict[str, object]]:
    """Throughput of single operators over that of Relu, on bound arrays, one thread, CPU time."""
    rows: list[dict[str, object]] = []
    x = onnxruntime.OrtValue.ortvalue_from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    y = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("relu", *TARGETS):
            module = nn.ReLU() if name == "relu" else train(actswap.activations.get(name).build(shape[1], 1))
            file = Path(folder) / f"{name}.onnx"
            export_onnx(module.eval(), torch.randn(2, shape[1], 8, 8), file, check=False, simplify=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            session = actswap.onnx.session(file, options, prepared=False)
            binding = session.io_binding()
            binding.bind_ortvalue_input(session.get_inputs()[0].name, x)
            binding.bind_ortvalue_output(session.get_outputs()[0].name, y)
            calls[name] = (session, binding)
    many = max(1, 2_000_000 // int(np.prod(shape)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, (session, binding) in calls.items():
            start = time.thread_time()
            for _ in range(many):
                session.run_with_iobinding(binding)
            times[name].append((time.thread_time() - start) / many)
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["relu"][2:], own[2:], strict=True))
        row = {"operator": name, "shape": shape, "rounds": rounds, "clock": "cpu", "best": min(own) * 1e3}
        rows.append({**row, "throughput_over_relu": ratio, "best_over_relu": min(times["relu"]) / min(own)})
        print(f"{name:10} {list(shape)!s:20} throughput over Relu: median {ratio:.3f}", flush=True)
    return rows


def measure(name: str, targets: list[str], folder: Path, args: argparse.Namespace) -> list[dict[str, object]]:
    model, x = network(name, args.size)
    original = folder / f"{name}.onnx"
    export_onnx(model, x, original, check=False, dynamic_size=False)
    contenders = [Contender("original", original, "portable")]
    parity: dict[str, dict[str, float]] = {}
    simplified: dict[str, Counter[str]] = {}
    for target in targets:
        file = folder / f"{name}_{target}.onnx"
        changed = converted(model, target, x)
        if args.trained:
            changed = train(changed)
        report = export_onnx(changed, x, file, dynamic_size=False)
        session = actswap.onnx.session(file)
        with torch.no_grad():
            want = changed(x).numpy()
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        parity[target] = {
            "portable": report.parity[0].relative,
            session.actswap_way: float(np.abs(got - want).max() / np.abs(want).max()),
        }
        simplified[target] = Counter(report.simplified.values())
        contenders += [Contender(f"{target} {way}", file, way) for way in args.ways]
    report = bench(contenders, x, batches=args.batches, threads=args.threads, rounds=args.rounds)
    rows = []
    for row in report.to_dict()["rows"]:
        target = row["label"].split()[0]
        rows.append(
            {
                "network": name,
                "parity": parity.get(target),
                "simplified": simplified.get(target, {}),
                "trained": args.trained,
                "rounds": args.rounds,
                **row,
            }
        )
        print(
            f"{name:14} {row['label']:20} {row['way']:9} threads {row['threads']} batch {row['batch']}"
            f"  median ratio {row['ratio']:.3f}  best {row['best_ratio']:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--operators", action="store_true")
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

    def write(rows: list[dict[str, object]]) -> None:
        with RESULTS.open("a") as file:
            file.writelines(json.dumps({**machine, **row}) + "\n" for row in rows)

    if args.operators:
        for shape in SHAPES:
            write(operators(shape, args.rounds))
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            write(measure(name, args.targets, Path(folder), args))


if __name__ == "__main__":
    main()
