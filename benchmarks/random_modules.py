"""Convert many random small networks and count what happens: converted, refused in words, failed.

    python benchmarks/random_modules.py --count 2000 --seed 0
    python benchmarks/random_modules.py --kind written --count 3000
    python benchmarks/random_modules.py --only 17          # one network, with its traceback

Kinds: `calls`, every form of call, held to census, parity, bit-exact revert and an untouched original
(`module_generator.py`); `written`, forwards with all that Python does around the operations (`written_modules.py`),
held to everything that the original does (`module_checks.py`). One dated JSON line goes to benchmarks/results.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("acon_c", "meta_acon", "dy_relu_b", "silu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=("calls", "written"), default="calls")
    parser.add_argument("--only", type=int, help="one network of the series")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/random_modules.jsonl")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch warns of mutations that the compiler would not see
    model_of, check = _kind(options.kind)
    if options.only is not None:
        print(model_of(options.seed + options.only))
        print(check(model_of(options.seed + options.only), target_of(options.only)))
        return
    outcomes: collections.Counter[str] = collections.Counter()
    failures: dict[int, str] = {}
    start = time.time()
    for i in range(options.count):
        try:
            outcomes[check(model_of(options.seed + i), target_of(i))] += 1
        except Exception as error:  # a failure of any kind is what this looks for
            outcomes["failed"] += 1
            lines = str(error).strip().splitlines() or [""]
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures[i] = f"{type(error).__name__}: {lines[0]} ({Path(where.filename).name}:{where.lineno})"
            print(f"{i}: {failures[i]}", file=sys.stderr)
        if (i + 1) % 100 == 0:
            print(f"{i + 1}/{options.count} {dict(outcomes)}", file=sys.stderr)
    row = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "count": options.count,
        "seed": options.seed,
        "kind": options.kind,
        "targets": TARGETS,
        "outcomes": dict(outcomes),
        "failures": failures,
        "seconds": round(time.time() - start),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


def _kind(name: str) -> tuple[Callable[[int], Any], Callable[[Any, str], str]]:
    """The networks of a kind by seed, and what they are held to."""
    if name == "calls":
        import module_generator

        return module_generator.from_seed, module_generator.check
    import module_checks
    import written_modules

    def check(model: Any, target: str) -> str:
        return module_checks.check(model, written_modules.example(), target)

    return written_modules.from_seed, check


def target_of(index: int) -> str:
    """The target that a network of the series is converted to."""
    return TARGETS[index % len(TARGETS)]


if __name__ == "__main__":
    main()
