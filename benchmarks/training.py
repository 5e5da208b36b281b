"""One training step of a network with other activations against the same network with its own ones.

CPU time of one thread, interleaved, medians of per-round ratios; peak resident memory in a process per variant; bytes
that autograd keeps. SGD with momentum, batch 16, 128x128. Results go to benchmarks/results/.

    python benchmarks/training.py --rss                       # 5 minutes on a quiet core
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch
from steady import keep_memory
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import actswap.nn as activations
from actswap import ops
from actswap.io.torchvision_import import import_library
from actswap.ops import native

torchvision = import_library("torchvision")

VARIANTS = {
    "own": None,
    "silu": lambda width: nn.SiLU(),
    "acon_c": lambda width: activations.AconC(width),
    "pau": lambda width: activations.PAU(width),
    "meta_acon": lambda width: activations.MetaAcon(width),
    "dy_relu_b": lambda width: activations.DyReLUB(width),
}


def swapped(name: str, variant: str) -> nn.Module:
    """Build a torchvision network and put the variant in place of its ReLU and ReLU6 modules."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None)
    make = VARIANTS[variant.split("/")[0]]
    if make is not None:
        width = 3
        for module in list(model.modules()):
            for child_name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    width = child.num_features
                elif isinstance(child, (nn.ReLU, nn.ReLU6)):
                    setattr(module, child_name, make(width))
    return model.train()


class Step:
    """One model with its optimiser and a fixed batch."""

    def __init__(self, name: str, variant: str) -> None:
        self.backend = [*variant.split("/"), "auto"][1]
        self.model = swapped(name, variant)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.x, self.target = torch.randn(16, 3, 128, 128), torch.randint(0, 1000, (16,))

    def forward(self) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(self.x), self.target)

    def __call__(self) -> None:
        with ops.backend(self.backend):
            self.optimiser.zero_grad(set_to_none=True)
            self.forward().backward()
            self.optimiser.step()

    def kept(self) -> float:
        """Megabytes of distinct storages that autograd keeps, parameters left out."""
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        seen: dict[int, int] = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            at = t.untyped_storage().data_ptr()
            if at not in own:
                seen[at] = t.untyped_storage().nbytes()
            return t

        with ops.backend(self.backend), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = self.forward()
        del loss
        return sum(seen.values()) / 1e6


def peak(name: str, variant: str) -> float:
    """Peak resident megabytes of a process that makes three steps."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--child", name, variant]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="*", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--variants", nargs="*", default=["silu", "acon_c", "pau", "meta_acon"],
                        help="names, or name/reference")  # fmt: skip
    parser.add_argument("--rss", action="store_true", help="measure peak memory too, in processes of their own")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.child:
        keep_memory()
    torch.set_num_threads(1)
    if options.child:
        step = Step(*options.child)
        for _ in range(3):
            step()
        # Not getrusage: its peak survives exec, so a child would report its parent's.
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 1e3)
        return
    result = {
        "date": str(date.today()), "isa": native.status().isa, "cores": os.cpu_count(), "torch": torch.__version__,
        "threads": 1, "clock": "thread CPU time", "rounds": options.rounds, "load": os.getloadavg()[0], "models": {},
    }  # fmt: skip
    variants = ["own", *[v for v in options.variants if v != "own"]]
    for name in options.models:
        steps = {v: Step(name, v) for v in variants}
        times: dict[str, list[float]] = {v: [] for v in variants}
        for r in range(options.rounds + 1):
            # Each round begins with another one: what follows the network's own step must not always be the same.
            for v in [*variants[r % len(variants) :], *variants[: r % len(variants)]]:
                step = steps[v]
                start = time.thread_time()
                step()
                if r:
                    times[v].append(time.thread_time() - start)
        rows = {}
        for v, step in steps.items():
            ratio = statistics.median(a / b for a, b in zip(times[v], times["own"], strict=True))
            spread = statistics.quantiles([a / b for a, b in zip(times[v], times["own"], strict=True)])
            rows[v] = {"time": round(ratio, 3), "quartiles": [round(spread[0], 3), round(spread[2], 3)]}
            rows[v]["seconds"] = round(statistics.median(times[v]), 3)
            rows[v]["kept_mb"] = round(step.kept(), 1)
        if options.rss:
            for v in variants:
                rows[v]["peak_mb"] = round(peak(name, v), 0)
        result["models"][name] = rows
        for v, row in rows.items():
            print(name, v, row)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"training-{result['date']}-{'-'.join(options.models)}.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
