"""Plans as data: they survive JSON, and data that is no plan is refused in words."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
import actswap.errors
from actswap.errors import UsageError
from actswap.plan import Plan, keys_of


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act, self.gate = nn.Linear(6, 6), nn.Linear(6, 6), nn.PReLU(6), nn.Sigmoid()

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None, mode: str = "x") -> Tensor:
        y = self.act(self.a(x)) * scale
        return self.b(self.capped(self.capped(y))) * self.gate(y.to(torch.float32))

    def capped(self, x: Tensor) -> Tensor:
        """Runs twice in one forward, so that only a trace tells its calls apart."""
        return F.relu6(x, inplace=True)


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return actswap.convert(small(), "acon_c", X).plan.to_dict()


def test_round_trip_through_json(data: dict[str, Any]) -> None:
    text = json.dumps(data, allow_nan=False)
    plan = Plan.from_dict(json.loads(text))
    assert json.dumps(plan.to_dict(), allow_nan=False) == text
    assert Plan.from_dict(plan.to_dict()) == plan
    assert plan.choices[0].site.source.get("slope") == (0.25,) * 6
    assert copy.deepcopy(plan) is plan


def test_what_is_left_keeps_its_reason(data: dict[str, Any]) -> None:
    ((site, reason),) = Plan.from_dict(data).left
    assert site.name == "gate" and site.role == "gate" and "gate" in reason


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last, value = path

    def change(d: Any) -> None:
        for key in parents:
            d = d[key]
        d[last] = value

    return change


def _drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last = path

    def change(d: Any) -> None:
        for key in parents:
            d = d[key]
        del d[last]

    return change


ATTACKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "schema 2": _set("schema", 2),
    "schema text": _set("schema", "1"),
    "no schema": _drop("schema"),
    **{f"no {key}": _drop(key) for key in ("target", "model", "keys", "before", "choices", "left", "islands")},
    "choices null": _set("choices", None),
    "choices number": _set("choices", 3),
    "choices text": _set("choices", "abc"),
    "choice is a list": _set("choices", 0, []),
    "choice without path": _drop("choices", 0, "path"),
    "site without name": _drop("choices", 0, "site", "name"),
    "site with more": _set("choices", 0, "site", "extra", 1),
    "site shape text": _set("choices", 0, "site", "shape", 5),
    "source null": _set("choices", 0, "site", "source", None),
    "source without kind": _drop("choices", 0, "site", "source", "kind"),
    "source parameter text": _set("choices", 0, "site", "source", "slope", "steep"),
    "start null": _set("choices", 0, "start", None),
    "start with more": _set("choices", 0, "start", "extra", 1),
    "start parameters text": _set("choices", 0, "start", "params", {"p1": "one"}),
    "start parameters null": _set("choices", 0, "start", "params", {"p1": None}),
    "options text": _set("choices", 0, "options", "space"),
    "left is a number": _set("left", 7),
    "left without reason": _drop("left", 0, "reason"),
    "island without owner": _drop("islands", 0, "owner"),
    "island calls number": _set("islands", 0, "calls", 3),
    "spec text": _set("islands", 0, "calls", 0, "spec", "not json"),
    "spec number": _set("islands", 0, "calls", 0, "spec", 3),
    "spec of something else": _set("islands", 0, "calls", 0, "spec", "{}"),
    "leaf of unknown kind": _set("islands", 0, "calls", 0, "leaves", 0, {"code": "print()"}),
    "leaf with two keys": _set("islands", 0, "calls", 0, "leaves", 0, {"value": 1, "free": "tensor"}),
    "leaf empty": _set("islands", 0, "calls", 0, "leaves", 0, {}),
    "leaf free of what": _set("islands", 0, "calls", 0, "leaves", 0, {"free": "everything"}),
    "leaf of torch unknown": _set("islands", 0, "calls", 0, "leaves", 0, {"torch": "torch.save"}),
    "before is a list": _set("before", []),
    "before is text": _set("before", "x"),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_data_that_is_no_plan(data: dict[str, Any], attack: Callable[[dict[str, Any]], None]) -> None:
    bad = json.loads(json.dumps(data))
    attack(bad)
    with pytest.raises(UsageError, match="plan") as caught:
        Plan.from_dict(bad)
    assert caught.value.fix


@pytest.mark.parametrize("bad", [None, [], 3, "plan", {}], ids=repr)
def test_something_else_entirely(bad: Any) -> None:
    with pytest.raises(UsageError, match="plan"):
        Plan.from_dict(bad)


@pytest.mark.parametrize(
    "attack",
    [
        _set("choices", 0, "target", "acon_z"),
        _set("choices", 0, "path", "nowhere.act"),
        _set("choices", 0, "options", {"speed": 1}),
        _set("choices", 0, "start", "params", {"p9": 1.0}),
        _set("choices", 0, "start", "params", {"p1": [1.0, 2.0]}),
        _set("choices", 0, "site", "source", {"kind": "unknown"}),
        _set("islands", 0, "owner", "nowhere"),
        _set("islands", 0, "sources", ["relu"]),
        _set("keys", "0000000000000000"),
    ],
    ids=["target", "path", "options", "parameter", "length", "source", "owner", "sources", "keys"],
)
def test_a_plan_that_does_not_fit_the_model_leaves_it_as_it_was(
    data: dict[str, Any], attack: Callable[[dict[str, Any]], None]
) -> None:
    bad = json.loads(json.dumps(data))
    attack(bad)
    model = small()
    with pytest.raises(actswap.errors.ActswapError):
        actswap.apply_plan(model, Plan.from_dict(bad), inplace=True)
    assert type(model) is Small
    assert list(model._modules) == ["a", "b", "act", "gate"] and type(model.act) is nn.PReLU
    assert torch.equal(model(X), small()(X))


def test_an_argument_that_json_cannot_hold() -> None:
    class Cache:
        pass

    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)

        def silu(self, x: Tensor) -> Tensor:
            return F.silu(x)

        def forward(self, x: Tensor, cache: Cache) -> Tensor:
            return self.silu(self.a(self.silu(self.a(x))))

    result = actswap.convert(Uses(), "acon_c", (X, Cache()))
    with pytest.raises(UsageError, match="cannot be written to a file") as caught:
        result.plan.to_dict()
    assert "Cache" in caught.value.why


def test_keys_tell_models_apart() -> None:
    assert keys_of(small()) == keys_of(Small())
    other = small()
    other.a = nn.Linear(6, 7)
    assert keys_of(other) != keys_of(small())
