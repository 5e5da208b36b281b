"""Time the operators against nn.ReLU, nn.SiLU, clone and other ways to compute them: interleaved, medians of ratios.

One thread is measured in CPU time of the calling thread, more in wall time; the allocator keeps what is freed. Results
go to benchmarks/results/. Other ways: `formula` (this project's, eager), `published` (as the released code writes it,
benchmarks/published.py), `compiled` and `published-compiled` (torch.compile of these); they are slow, so they go with
fewer rounds and shapes. The gates of meta_acon and dy_relu are as wide as the modules make them by default (r = 16,
reduction = 8).

    python benchmarks/ops.py                                  # 1.5 minutes on a quiet core
    python benchmarks/ops.py --threads 2
    python benchmarks/ops.py --dtype bfloat16
    python benchmarks/ops.py --ways published compiled --rounds 5 --shapes 32x256x14x14 \
        --only swish acon_c meta_acon dy_relu pau_a
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

sys.path[:0] = [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parent),
]
from operator_cases import FORMULAS, operator, parameters  # noqa: E402
from published import FORMS  # noqa: E402
from steady import keep_memory  # noqa: E402

import actswap.nn  # noqa: E402, F401 - declares the operators
from actswap.ops import native  # noqa: E402

SHAPES = {
    "32x64x56x56": ((32, 64, 56, 56), 1),
    "32x256x14x14": ((32, 256, 14, 14), 1),
    "1x64x112x112": ((1, 64, 112, 112), 1),
    "8x197x768": ((8, 197, 768), -1),
    "32x512x7x7": ((32, 512, 7, 7), 1),
    "1x8x4x4": ((1, 8, 4, 4), 1),
}
PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "clone": torch.clone,
}
KINDS = (
    "swish", "acon_c", "pau_a", "pau_a_channel", "pau_b", "opau_t", "opau_he",
    "meta_acon", "dy_relu", "dy_relu_a", "dy_relu_c",
)  # fmt: skip
WAYS = ("kernel", "formula", "published", "compiled", "published-compiled")


def candidate(name: str, shape: tuple[int, ...], dim: int):
    """Return (function of x, its parameters that need gradients) of `kind` or `kind/way`."""
    kind, way = [*name.split("/"), "kernel"][:2]
    if kind in PLAIN:
        return PLAIN[kind], []
    operator_name, arguments = parameters(kind, shape[dim])
    leaves = [
        a.requires_grad_(not (operator_name in ("pau", "opau") and i == 2)) if isinstance(a, torch.Tensor) else a
        for i, a in enumerate(arguments)
    ]
    wanted = [a for a in leaves if isinstance(a, torch.Tensor) and a.requires_grad]
    if way == "kernel":
        function = operator(operator_name)
    else:
        function = (FORMS if way.startswith("published") else FORMULAS)[operator_name]
    if way.endswith("compiled"):
        torch._dynamo.reset()
        function = torch.compile(function, dynamic=False)
    return lambda x: function(x, *leaves, dim), wanted


def measure(shape, dim, dtype, names, rounds, clock):
    """Return {name: (forward ratio, forward+backward ratio)} to relu, and the kept bytes per input byte."""
    x = torch.randn(shape).to(dtype)
    g = torch.randn(shape).to(dtype)
    tracked = x.clone().requires_grad_()
    made = {n: candidate(n, shape, dim) for n in names}
    repeat = min(200, max(1, int(4e5 // x.numel())))

    def forward(n):
        with torch.no_grad():
            call = made[n][0]
            for _ in range(repeat):
                call(x)

    def both(n):
        call, leaves = made[n]
        for _ in range(repeat):
            torch.autograd.grad(call(tracked), [tracked, *leaves], g, allow_unused=True)

    times = {(n, k): [] for n in names for k in "fb"}
    for r in range(rounds + 1):
        for n in names:
            for k, run in (("f", forward), ("b", both)):
                start = clock()
                run(n)
                if r:
                    times[n, k].append((clock() - start) / repeat)
    rows = {}
    for n in names:
        row = {}
        for k, label in (("f", "forward"), ("b", "both")):
            for base in ("relu", "silu", "clone"):
                pairs = zip(times[n, k], times[base, k], strict=True)
                row[f"{label}/{base}"] = round(statistics.median(a / b for a, b in pairs), 3)
            row[f"{label}_us"] = round(statistics.median(times[n, k]) * 1e6, 2)
        row["kept"] = round(kept(*made[n][:1], tracked, made[n][1]) / (x.numel() * x.element_size()), 3)
        rows[n] = row
    return rows


def kept(call, x, leaves) -> int:
    """Bytes of distinct storages saved for backward, parameters left out."""
    seen: dict[int, int] = {}
    own = {a.untyped_storage().data_ptr() for a in leaves}

    def pack(t):
        if t.untyped_storage().data_ptr() not in own:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call(x)
    return sum(seen.values())


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--only", nargs="*", default=list(KINDS))
    parser.add_argument("--ways", nargs="*", default=["kernel"], choices=WAYS)
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    names = [*PLAIN, *(k if way == "kernel" else f"{k}/{way}" for way in options.ways for k in options.only)]
    result = {
        "date": str(date.today()),
        "machine": platform.processor() or platform.machine(),
        "isa": native.status().isa,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "threads": options.threads,
        "clock": "thread CPU time" if options.threads == 1 else "wall time",
        "dtype": options.dtype,
        "rounds": options.rounds,
        "shapes": {},
    }
    for key in options.shapes:
        shape, dim = SHAPES[key]
        rows = measure(shape, dim, getattr(torch, options.dtype), names, options.rounds, clock)
        result["shapes"][key] = rows
        print(f"{key} {options.dtype}, {options.threads} thread(s): forward / forward+backward, times nn.ReLU; us")
        for name, row in rows.items():
            print(
                f"  {name:24s} {row['forward/relu']:6.2f} {row['both/relu']:6.2f}   silu {row['forward/silu']:5.2f} "
                f"{row['both/silu']:5.2f}   kept {row['kept']:5.2f}   {row['forward_us']:10.1f} {row['both_us']:10.1f}"
            )
        if not options.no_save:
            folder = Path(__file__).parent / "results"
            folder.mkdir(exist_ok=True)
            ways = "" if options.ways == ["kernel"] else f"-{'-'.join(options.ways)}"
            stem = f"ops-{result['date']}-{options.dtype}-{options.threads}t-{result['isa']}{ways}"
            (folder / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
