"""Conversions and scans in several threads give what they give alone, and leave other threads in peace."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import threads
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
from actswap.errors import CaptureError

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


def test_many_conversions_beside_a_served_and_a_trained_model() -> None:
    found = threads.compare(12, 4)
    assert found["same"] == 12
    assert found["converted"] > 6
    assert found["served"]["right"] > 0
    assert "wrong" not in found["served"]
    assert found["steps that differ"] == 0
    assert found["process"] == []


class Counting(nn.Module):
    """Counts its runs, and has a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.act, self.drop, self.runs = nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.act(self.l(self.drop(self.act(F.silu(self.l(x))))))


def test_threads_that_scan_and_convert_one_model() -> None:
    """Nobody takes what another does to the model for its own state."""
    model, x = Counting().train(), torch.randn(2, 4)
    model.drop.eval()
    state = copy.deepcopy(model.state_dict())
    with ThreadPoolExecutor(4) as pool:
        scans = list(pool.map(lambda _: [(s.name, s.how) for s in actswap.scan(model, x)], range(12)))
        converted = list(pool.map(lambda _: len(actswap.convert(model, "acon_c", x).report.replaced), range(8)))
    assert all(scan == scans[0] for scan in scans)
    assert set(converted) == {3}
    assert (model.training, model.drop.training, model.act.training, model.runs) == (True, False, True, 0)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not today")


def test_an_error_in_one_thread_does_not_reach_the_others() -> None:
    before = threads.process()
    start = threading.Barrier(4)

    def work(i: int) -> str:
        start.wait()
        try:
            return str(
                len(actswap.convert(Failing() if i % 2 else Counting(), "acon_c", torch.randn(2, 4)).plan.choices)
            )
        except CaptureError as error:
            return error.what

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert found == ["3", "Failing does not run on the example inputs"] * 2
    assert threads.process() == before


class Nested(nn.Module):
    """Converts another network in its forward, the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.inner = nn.Linear(4, 4), [Counting().eval()]

    def forward(self, x: Tensor) -> Tensor:
        other = actswap.convert(self.inner[0], "acon_c", x).model
        return F.relu(self.l(x)) + 0 * other(x)


def test_a_conversion_inside_a_conversion() -> None:
    before = threads.process()
    x = torch.randn(2, 4)
    found = actswap.scan(Nested().eval(), x)
    assert "relu" in [s.name for s in found]
    assert threads.process() == before
