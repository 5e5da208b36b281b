"""A plan in a file must have the fields and types of the dataclasses it is read into; the message names the key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.errors import LoadError
from actswap.io.plan_check import MAX_DEPTH, check_plan
from actswap.plan import Plan

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x).relu()))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    plan = actswap.convert(Net(), "pau", X, only=["relu"], start="morph", calibration=[X], verify=False).plan
    found: dict[str, Any] = json.loads(json.dumps(plan.to_dict()))
    return found


def test_what_actswap_writes_passes_and_is_read(data: dict[str, Any]) -> None:
    check_plan(data, 1000, "plan.json")
    assert json.loads(json.dumps(Plan.from_dict(data).to_dict())) == data
    earlier = {**copy.deepcopy(data), "before": data}
    check_plan(earlier, 1000, "plan.json")


def edited(data: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    change(changed)
    return changed


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda d: d.update(surprise=1), "plan, a key"),
        (lambda d: d.pop("target"), "plan.target"),
        (lambda d: d.update(choices={}), "plan.choices"),
        (lambda d: d["choices"][0].update(seed=1.5), "seed"),
        (lambda d: d["choices"][0]["site"].update(channels=10**9), "site.channels"),
        (lambda d: d["choices"][0]["site"].update(channels=0), "site.channels"),
        (lambda d: d["choices"][0]["site"].update(how="anyhow"), "site.how"),
        (lambda d: d["choices"][0]["site"]["source"].update(slope="steep"), "source.slope"),
        (lambda d: d["choices"][0]["start"].update(bound=1e301), "start.bound"),
        (lambda d: d["choices"][0]["options"].update(deep=[[[[[[[[[1]]]]]]]]]), "options"),
        (lambda d: d["choices"][0].update(path="x" * (1 << 17)), "path"),
        (lambda d: d["left"][0].update(reason=None), "reason"),
        (lambda d: d["islands"][0]["rewrites"][0].update(place=[1, 2]), "place"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(data: dict[str, Any], change: Callable[..., object], key: str) -> None:
    with pytest.raises(LoadError) as caught:
        check_plan(edited(data, change), 1000, "plan.json")
    assert key in caught.value.what and "plan.json" in caught.value.what and caught.value.why


def test_a_tower_of_earlier_plans_is_refused(data: dict[str, Any]) -> None:
    tower = data
    for _ in range(MAX_DEPTH + 1):
        tower = {**data, "before": tower}
    with pytest.raises(LoadError, match="earlier plans"):
        check_plan(tower, 1000, "plan.json")


@pytest.mark.parametrize("nothing", [None, [], "plan", 1])
def test_what_is_no_object_is_refused(nothing: Any) -> None:
    with pytest.raises(LoadError, match="must be an object"):
        check_plan(nothing, 1000, "plan.json")
