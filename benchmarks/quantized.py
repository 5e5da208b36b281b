"""Accuracy and latency in 8 bits: trained activations as tables, beside the ReLU network and naive quantisation.

    python benchmarks/quantized.py [--targets acon_c pau] [--epochs 1] [--tests 10000]

A small residual network learns Fashion-MNIST with ReLU; each target starts from it and is trained on for a part of an
epoch. Then each network is exported and quantised (one scale per channel, calibrated on 256 training images) in two
ways: `actswap quantize`, and the runtime's own advice, `quant_pre_process` and `quantize_static`. The accuracy is that
of the official test images. Latencies are interleaved, relative to the 8-bit ReLU network. Writes a dated table to
benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import platform
import tempfile
from pathlib import Path
from typing import Any

import fashion
import onnxruntime
import torch
from onnxruntime import quantization as ort
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

import actswap
from actswap.onnx.bench import Contender, bench
from actswap.onnx.quantize import quantize
from actswap.onnx.runtime import cpu_session

TARGETS = ("relu", "acon_c", "meta_acon", "dy_relu_b", "pau", "hp1", "swish")
FITTED = ("pau", "hp1")  # their starts on a ReLU are fits, which the training repairs
BATCH = 128


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int, rate: float) -> None:
    groups = actswap.param_groups(model, weight_decay=5e-4)
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def naive(source: Path, path: Path, feeds: list[dict[str, Any]]) -> None:
    """Quantise as the runtime advises: pre-process, then everything that it knows."""

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    ort.quantize_static(
        prepared,
        path,
        Reader(),
        per_channel=True,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
    )


def accuracy(path: Path, images: torch.Tensor, labels: torch.Tensor) -> float:
    session = cpu_session(path)
    name = session.get_inputs()[0].name
    right = 0
    for k in range(0, len(images), 500):
        (scores,) = session.run(None, {name: images[k : k + 500].numpy()})
        right += int((scores.argmax(1) == labels[k : k + 500].numpy()).sum())
    return 100 * right / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--steps", type=int, default=469, help="of the ReLU network")
    parser.add_argument("--more", type=int, default=120, help="steps of each target")
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    torch.manual_seed(0)
    data = fashion.official()
    images, labels = data.train.tensors
    tests = [tensor[: given.tests] for tensor in data.valid.tensors]
    relu = fashion.SmallResNet()
    train(relu, images, labels, given.steps, 0.1)
    lines = [
        f"{datetime.date.today()}: torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, "
        f"{platform.machine()}; {given.steps} + {given.more} steps, {given.tests} test images, one seed",
        "",
        "| target | float | 8 bits, tables | lost | 8 bits, naive | batch 1 | batch 16 | left in float |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    out = Path(__file__).parent / "results" / f"quantized-{datetime.date.today()}.md"
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "relu.int8.onnx"
        for target in given.targets:
            model = relu
            if target != "relu":
                start = "fit" if target in FITTED else "auto"
                model = actswap.convert(relu, target, images[:64], start=start, tolerance=10.0, verify="outputs").model
            train(model, images, labels, given.more, 0.02)
            file = Path(folder) / f"{target}.onnx"
            actswap.export_onnx(model, images[:2], file, dynamic_size=False)
            (value,) = cpu_session(file).get_inputs()
            feeds = [{value.name: images[k : k + 32].numpy()} for k in range(0, 256, 32)]
            made = file.with_suffix(".int8.onnx")
            report = quantize(file, made, feeds, per_channel=True)
            naive(file, file.with_suffix(".naive.onnx"), feeds)
            rates = [accuracy(file.with_suffix(f".{kind}"), *tests) for kind in ("onnx", "int8.onnx", "naive.onnx")]
            times = []
            for batch in (1, 16):
                pair = [Contender("relu", first, "portable"), Contender(target, made, "auto")]
                row = bench(pair, images[:batch], batches=(batch,), rounds=given.rounds).rows[1]
                times.append(f"{row.ratio:.2f} ({row.low:.2f}-{row.high:.2f})")
            lines.append(
                f"| {target} | {rates[0]:.2f} | {rates[1]:.2f} | {rates[0] - rates[1]:+.2f} | {rates[2]:.2f} | "
                f"{times[0]} | {times[1]} | {len(report.left)} of {len(report.left) + len(report.tables)} |"
            )
            print(lines[-1], flush=True)
            out.write_text("\n".join([*lines, ""]))
    print(out)


if __name__ == "__main__":
    main()
