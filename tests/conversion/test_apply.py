"""A plan converts another copy to the same bits, and refuses every model that it was not made for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import actswap
from actswap.conversion.apply import apply_plan
from actswap.errors import UsageError
from actswap.plan import Plan
from actswap.sites import Source

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Calls(nn.Module):
    """A module, and a function that needs an island."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(6, width), nn.SiLU(), nn.Linear(width, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.b(self.act(self.a(x))))


def network(width: int = 6) -> Calls:
    torch.manual_seed(0)
    return Calls(width).eval()


@pytest.fixture(scope="module")
def converted() -> actswap.conversion.outcome.Conversion:
    return actswap.convert(network(), "acon_c", X)


def test_another_copy_computes_the_same_bits_and_the_given_one_is_unchanged(converted) -> None:
    model = network()
    before = model(X)
    applied = apply_plan(model, Plan.from_dict(converted.plan.to_dict()))
    assert torch.equal(applied(X), converted.model(X))
    assert type(model.act) is nn.SiLU and actswap.plan_of(model) is None and torch.equal(model(X), before)


def test_weights_of_the_given_model_are_kept(converted) -> None:
    model = network()
    with torch.no_grad():
        model.a.weight.mul_(2)
    assert torch.equal(apply_plan(model, converted.plan).a.weight, model.a.weight)


def test_in_place_changes_the_model_itself(converted) -> None:
    model = network()
    assert apply_plan(model, converted.plan, inplace=True) is model
    assert type(model.act) is actswap.nn.AconC and torch.equal(model(X), converted.model(X))


def test_earlier_plans_are_applied_first() -> None:
    first = actswap.convert(network(), "swish", X, only="source:silu").model
    second = actswap.convert(first, "acon_c", X, only="source:relu")
    plan = actswap.plan_of(second.model)
    assert plan is not None and plan.before is not None
    assert torch.equal(apply_plan(network(), plan)(X), second.model(X))


def test_other_shapes_are_refused_before_anything_changes(converted) -> None:
    model = network(width=7)
    with pytest.raises(UsageError, match="made for another model"):
        apply_plan(model, converted.plan, inplace=True)
    assert type(model.act) is nn.SiLU


def test_an_activation_that_nobody_knows_is_named(converted) -> None:
    (first, *rest) = converted.plan.choices
    strange = dataclasses.replace(first, site=dataclasses.replace(first.site, source=Source("no_such_activation")))
    with pytest.raises(UsageError, match="no_such_activation"):
        apply_plan(network(), dataclasses.replace(converted.plan, choices=(strange, *rest)))


def test_a_plan_that_fails_halfway_leaves_the_model_as_it_was(converted) -> None:
    (first, *rest) = converted.plan.choices
    wrong = dataclasses.replace(first, start=dataclasses.replace(first.start, params={"no_such_parameter": 1.0}))
    model = network()
    before = model(X)
    with pytest.raises(UsageError, match="does not fit this Calls"):
        apply_plan(model, dataclasses.replace(converted.plan, choices=(*rest, wrong)), inplace=True)
    assert type(model.act) is nn.SiLU and type(model) is Calls and actswap.plan_of(model) is None
    assert list(model.state_dict()) == list(network().state_dict()) and torch.equal(model(X), before)
