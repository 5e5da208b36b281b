"""Convert many networks in many threads, beside a model that serves and one that trains; everything must come out
as it does alone.

    python benchmarks/threads.py --count 1000 --threads 8

Every network is converted once alone and once in the crowd: the same sites, the same reasons, the same bits. The served
model (a transformer with padding, whose fused kernel computes something else at the padding than the plain path) must
answer the same bits each time, the trained one (dropout, Python's generator) take the same steps as alone, and the
process be as before. One dated JSON line goes to benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import logging
import os
import platform
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import module_generator

import actswap
from actswap.errors import ActswapError

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("acon_c", "silu", "swish", "pau")  # none draws random numbers when it is built
Outcome = tuple[Any, ...]


class Twice(nn.Module):
    """A child called twice, a function, a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.drop = nn.Linear(module_generator.WIDTH, module_generator.WIDTH), nn.ReLU(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.a(self.act(x.movedim(1, -1))))
        return F.silu(self.drop(h) * torch.sigmoid(h)).movedim(-1, 1)


def network(i: int) -> nn.Module:
    """Return the i-th network."""
    torch.manual_seed(i)
    return Twice().eval() if i % 5 == 0 else module_generator.from_seed(i)


def outcome(model: nn.Module, target: str) -> Outcome:
    """Scan, convert, verify and revert a network; return all that can be seen of it."""
    x = module_generator.example()
    before = model(x)
    sites = [(s.name, s.source.kind, s.how) for s in actswap.scan(model, x)]
    try:
        result = actswap.convert(model, target, x, start="morph")
    except ActswapError as error:
        return (*sites, error.what)
    assert actswap.verify(model, result.model, x).rel <= 1e-3
    assert torch.equal(actswap.revert(result.model)(x), before)
    assert torch.equal(model(x), before)
    bits = hashlib.sha256(result.model(x).detach().numpy().tobytes()).hexdigest()
    report = result.report
    return (*sites, *(r.site.name for r in report.replaced), *(e.reason for e in report.left), bits)


def serving(encoder: nn.Module, end: threading.Event) -> Counter[str]:
    """Serve until the end; count the answers that are right and wrong."""
    x, padding = torch.linspace(-2, 2, 96).reshape(2, 6, 8), torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 3:] = True
    counts: Counter[str] = Counter()
    with torch.inference_mode():
        first = encoder(x, src_key_padding_mask=padding)
        while not end.is_set():
            right = torch.equal(encoder(x, src_key_padding_mask=padding), first)
            counts["right" if right else "wrong"] += 1
    return counts


class Trainer:
    """A network with dropout that trains: its steps follow from the state of the generators alone."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)
        torch.manual_seed(1)
        random.seed(1)

    def step(self) -> float:
        """Take one step."""
        x = torch.randn(16, 8) * random.uniform(0.9, 1.1)
        loss = self.net(x).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def until(self, end: threading.Event) -> list[float]:
        """Train until the end."""
        losses = []
        while not end.is_set() or not losses:
            losses.append(self.step())
        return losses


def process() -> dict[str, Any]:
    """Return what conversions must leave as it was."""
    return {
        "call": nn.Module.__call__,
        "getattr": nn.Module.__getattr__,
        "training": "training" in vars(nn.Module),
        "checks": (F._canonical_mask, F._none_or_dtype),
        "fused attention": torch.backends.mha.get_fastpath_enabled(),
        "fx": torch.fx._symbolic_trace._is_fx_tracing_flag,
        "filters": list(warnings.filters),
        "logging": (logging.Logger.handle, logging.root.level),
        "path": list(sys.path),
        "modes": (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_num_threads()),
        "hooks": torch.nn.modules.module._has_any_global_hook(),
    }


def crowd(jobs: Sequence[Callable[[], Outcome]], threads: int) -> tuple[list[Any], Counter[str], list[float]]:
    """Run jobs in threads while one model serves and one trains."""
    end = threading.Event()
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    trainer = Trainer()
    with ThreadPoolExecutor(2) as beside, ThreadPoolExecutor(threads) as pool:
        served, trained = beside.submit(serving, encoder, end), beside.submit(trainer.until, end)
        try:
            futures = [pool.submit(job) for job in jobs]
            results = [f.exception() or f.result() for f in futures]
        finally:
            end.set()
    return results, served.result(), trained.result()


def compare(count: int, threads: int) -> dict[str, Any]:
    """Convert networks alone and in the crowd, and count what differs."""
    pairs = [(network(i), TARGETS[i % len(TARGETS)]) for i in range(count)]
    start = time.perf_counter()
    alone = [outcome(model, target) for model, target in pairs]
    seconds_alone = time.perf_counter() - start
    jobs = [lambda pair=pair: outcome(*pair) for pair in pairs]
    crowd(jobs[:1], 1)  # libraries that are imported at first use change the process once
    before = process()
    start = time.perf_counter()
    results, served, losses = crowd(jobs, threads)
    seconds = time.perf_counter() - start
    after = process()
    trainer = Trainer()
    again = [trainer.step() for _ in losses]
    differing = [i for i, (a, b) in enumerate(zip(alone, results, strict=True)) if a != b]
    for i in differing[:5]:
        print(f"{i}: alone {alone[i]}\n   in the crowd {results[i]!r}", file=sys.stderr)
    return {
        "count": count,
        "threads": threads,
        "converted": sum(len(o[-1]) == 64 for o in alone),
        "same": count - len(differing),
        "served": dict(served),
        "steps": len(losses),
        "steps that differ": sum(a != b for a, b in zip(losses, again, strict=True)),
        "process": [f"{k}: {before[k]} -> {after[k]}" for k in before if before[k] != after[k]],
        "seconds": {"alone": round(seconds_alone, 1), "in the crowd": round(seconds, 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/threads.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    row = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        **compare(options.count, options.threads),
    }
    print(json.dumps(row))
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    if row["same"] != options.count or row["served"].get("wrong") or row["steps that differ"] or row["process"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
