"""The census is complete exactly if what runs afterwards is what was planned."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import actswap
from actswap.capture.observe import observe
from actswap.checks.census import census, count
from actswap.recognize.locate import locate

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """Three ReLU calls, one SiLU call, and a clamp that is no activation."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.act = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.lin(self.act(x))).clamp(max=50.0)
        return torch.nn.functional.silu(torch.relu(x))


def counted(model: nn.Module) -> dict[str, int]:
    return count(locate(model, observe(model, (X,))))


def test_every_call_is_counted_and_converted_calls_are_counted_as_targets() -> None:
    model = Shared().eval()
    assert counted(model) == {"relu": 3, "silu": 1}
    converted = actswap.convert(model, "acon_c", X, only="source:relu").model
    assert counted(converted) == {"actswap.acon_c": 3, "silu": 1}


class Repeated(nn.Module):
    """One block that runs three times: one site, three calls."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.block(self.block(x)))


def test_a_site_that_runs_three_times_counts_three_calls() -> None:
    model = Repeated().eval()
    assert len(actswap.scan(model, X)) == 1 and counted(model) == {"relu": 3}


def test_a_complete_census() -> None:
    found = census({"relu": 3, "silu": 1}, {"actswap.acon_c": 3, "silu": 1}, 3)
    assert (found.replaced, found.left, found.complete) == (3, 1, True)
    assert json.loads(json.dumps(found.to_dict()))["before"] == {"relu": 3, "silu": 1}


@pytest.mark.parametrize(
    "after",
    [
        {"actswap.acon_c": 2, "silu": 1},  # a call was lost
        {"actswap.acon_c": 2, "relu": 1, "silu": 1},  # a call was not replaced
        {"actswap.acon_c": 4, "silu": 1},  # a call was made twice
        {"actswap.acon_c": 4},  # a call was replaced that was to stay
        {"actswap.acon_c": 3},  # a call that was to stay was lost
        {"actswap.acon_c": 3, "silu": 2},  # a call appeared
    ],
)
def test_an_incomplete_census(after) -> None:
    assert not census({"relu": 3, "silu": 1}, after, 3).complete


def test_targets_of_an_earlier_conversion_are_not_counted_as_replaced() -> None:
    found = census({"actswap.swish": 2, "relu": 1}, {"actswap.swish": 2, "actswap.acon_c": 1}, 1)
    assert (found.replaced, found.left, found.complete) == (1, 2, True)
