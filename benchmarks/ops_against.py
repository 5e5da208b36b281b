"""Time the Padé modules of this checkout against those of another one: interleaved, medians of ratios.

    git worktree add ../before 787592a && (cd ../before && python -m actswap.ops.build)
    python benchmarks/ops_against.py ../before              # two minutes
    python benchmarks/ops_against.py ../before --rounds 5 --shapes 1x8x4x4

One process per checkout, one thread each; they take turns, so both see the same load, and are begun anew four times,
since memory that happens to lie badly slows a process for its whole life. A round times a forward pass
without gradients and a forward with backward, in thread CPU time, of every module at every shape. Printed are the
median of the rounds' ratios (this checkout / the other), and the ratio of the shortest times, which other load on the
machine disturbs least. Exit code 1 if the latter is above 1.05.
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

SHAPES = {
    "1x8x4x4": (1, 8, 4, 4),
    "1x64x112x112": (1, 64, 112, 112),
    "32x256x14x14": (32, 256, 14, 14),
    "8x197x768": (8, 768, 197),
    "32x64x56x56": (32, 64, 56, 56),
}
UNITS = {
    "pau": ("PAU", {}),
    "pau channel": ("PAU", {"channels": True}),
    "opau": ("OPAU", {}),
    "opau channel": ("OPAU", {"channels": True}),
    "hp1": ("HP1", {}),
    "hp2": ("HP2", {}),
}
LIMIT, PROCESSES = 1.05, 4
RESULTS = Path(__file__).parent / "results"


def work(shapes: list[str]) -> None:
    """Answer each line on stdin with the seconds of one round, as JSON: {"unit shape forward|both": seconds}."""
    import torch
    from steady import keep_memory

    import actswap.nn

    keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    calls = {}
    for key in shapes:
        shape = SHAPES[key]
        x, g = torch.randn(shape), torch.randn(shape)
        repeat = min(100, max(1, int(4e5 // x.numel())))
        for name, (unit, options) in UNITS.items():
            module = getattr(actswap.nn, unit)(**({"channels": shape[1]} if "channels" in options else {}))
            calls[f"{name} {key}"] = (module, x, x.clone().requires_grad_(), g, repeat, list(module.parameters()))
    for _ in sys.stdin:
        found = {}
        for label, (module, x, tracked, g, repeat, leaves) in calls.items():
            with torch.no_grad():
                start = time.thread_time()
                for _ in range(repeat):
                    module(x)
                found[f"{label} forward"] = (time.thread_time() - start) / repeat
            start = time.thread_time()
            for _ in range(repeat):
                torch.autograd.grad(module(tracked), [tracked, *leaves], g)
            found[f"{label} both"] = (time.thread_time() - start) / repeat
        print(json.dumps(found), flush=True)


def worker(checkout: Path, shapes: list[str]) -> subprocess.Popen[str]:
    """A process that computes with the package of this checkout."""
    command = [sys.executable, str(Path(__file__).resolve()), "--work", "--shapes", *shapes]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    """One round of this process."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, nargs="?", help="the other checkout, its kernels built")
    parser.add_argument("--rounds", type=int, default=6, help="per process")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    if options.work:
        work(options.shapes)
        return 0
    if options.checkout is None:
        parser.error("which checkout is this one to be compared with?")
    load = os.getloadavg()[0]
    rounds = []
    for _ in range(PROCESSES):
        now, before = worker(Path(__file__).parents[1], options.shapes), worker(options.checkout, options.shapes)
        ask(now), ask(before)  # the first round fills caches
        rounds += [(ask(now), ask(before)) for _ in range(options.rounds)]
        for process in (now, before):
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=options.checkout, capture_output=True, text=True, check=True
    ).stdout.strip()
    lines = [
        f"{datetime.date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, "
        f"1 thread, {len(rounds)} rounds; this checkout against {commit}",
        f"{'module, shape, pass':36}{'us now':>12}{'us before':>12}{'median':>8}{'best':>8}",
    ]
    slow = []
    for label in rounds[0][0]:
        ratio = statistics.median(a[label] / b[label] for a, b in rounds)
        times = [statistics.median(pair[k][label] for pair in rounds) * 1e6 for k in (0, 1)]
        best = min(a[label] for a, _ in rounds) / min(b[label] for _, b in rounds)
        lines.append(f"{label:36}{times[0]:12.1f}{times[1]:12.1f}{ratio:8.3f}{best:8.3f}")
        if best > LIMIT:
            slow.append(label)
    lines.append(f"slower than {LIMIT}: {', '.join(slow) or 'none'}")
    print("\n".join(lines))
    if not options.no_write:
        (RESULTS / f"ops_against-{datetime.date.today().isoformat()}.txt").write_text("\n".join(lines) + "\n")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
