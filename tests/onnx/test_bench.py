"""bench: what is measured, in which order, and how it is summed up."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from actswap.errors import UsageError
from actswap.onnx import bench as module
from actswap.onnx.bench import Contender, bench
from actswap.onnx.export import export_onnx


def test_ratios_percentiles_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that the contenders turn themselves: 1 and 3 seconds per call, the second once 13."""
    now, calls = [0.0], []
    monkeypatch.setattr(module.time, "thread_time", lambda: now[0])

    class Takes(nn.Module):
        def __init__(self, seconds: list[float]) -> None:
            super().__init__()
            self.seconds = seconds

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append((len(self.seconds), tuple(x.shape)))
            now[0] += self.seconds.pop() if len(self.seconds) > 1 else self.seconds[0]
            return x

    report = bench(
        [Contender("a", Takes([1.0])), Contender("b", Takes([3.0, 13.0]))],
        torch.ones(1, 2),
        batches=(4,),
        rounds=5,
        warmup=0,
    )
    a, b = report.rows
    assert (a.ratio, b.ratio, b.best_ratio) == (1.0, 3.0, 3.0) and (b.low, b.high) == (3.0, 3.0)
    assert (b.median, b.best) == (3000.0, 3000.0) and b.p99 > b.p90 > b.median
    assert (a.way, a.clock, a.batch) == ("torch", "cpu", 4)
    assert [shape for _, shape in calls] == [(4, 2)] * 10
    assert json.loads(json.dumps(report.to_dict()))["rows"][1]["label"] == "b"


def test_files_and_modules_side_by_side(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    export_onnx(model, torch.randn(2, 3), tmp_path / "m.onnx")
    report = bench(
        [model, tmp_path / "m.onnx", Contender("plain", tmp_path / "m.onnx", "portable")],
        torch.randn(1, 3),
        threads=(1, 2),
        rounds=2,
    )
    assert [(r.label, r.threads, r.clock) for r in report.rows] == [
        (label, threads, clock)
        for threads, clock in ((1, "cpu"), (2, "wall"))
        for label in ("Linear", "m.onnx", "plain")
    ]
    assert bench([tmp_path / "m.onnx"], rounds=1).rows[0].ratio == 1.0


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        bench([])
    with pytest.raises(UsageError, match="needs example inputs"):
        bench([nn.Linear(2, 2)])
    with pytest.raises(UsageError, match="way='fast'"):
        bench([Contender("x", tmp_path / "m.onnx", "fast")])
    export_onnx(nn.Conv2d(3, 2, 1), torch.randn(2, 3, 4, 4), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no input can be made"):
        bench([tmp_path / "m.onnx"])
