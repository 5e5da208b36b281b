"""The record outlives copies and pickles, an earlier one is kept, and the state dict does not hold it."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import torch
from torch import fx, nn

import actswap
from actswap.record import forget, plan_of, record_of, remember

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4), nn.ReLU()).eval()


def test_a_record_stands_outside_parameters_modules_and_state() -> None:
    model = network()
    names, modules = list(model.state_dict()), list(model.modules())
    plan = actswap.convert(model, "acon_c", X).plan
    remember(model, plan, {"1": model[1]})
    assert list(model.state_dict()) == names and list(model.modules()) == modules
    record = record_of(model)
    assert record is not None and record.plan is plan and dict(record.originals) == {"1": model[1]}


def test_copies_and_pickles_of_a_converted_model_have_its_plan() -> None:
    traced = fx.symbolic_trace(network())
    for model in (network(), traced):
        converted = actswap.convert(model, "acon_c", X).model
        plan = plan_of(converted)
        assert plan is not None and len(plan.choices) == 2
        for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
            found = plan_of(other)
            assert found is not None and found.to_dict() == plan.to_dict()


def test_a_second_conversion_keeps_the_first_plan_and_the_first_originals() -> None:
    model = network()
    first = actswap.convert(model, "swish", X, only="source:silu").model
    second = actswap.convert(first, "acon_c", X, only=["source:relu"]).model
    record = record_of(second)
    assert record is not None and record.plan.before is not None
    assert record.plan.before.to_dict() == dataclasses.replace(plan_of(first), before=None).to_dict()
    assert {path: type(module) for path, module in record.originals} == {"1": nn.SiLU, "3": nn.ReLU}


def test_originals_of_an_earlier_record_win_over_later_ones_at_the_same_path() -> None:
    model, (silu, relu) = network(), (nn.SiLU(), nn.ReLU())
    plan = actswap.convert(model, "acon_c", X).plan
    remember(model, plan, {"1": silu})
    remember(model, plan, {"1": relu, "3": None})
    record = record_of(model)
    assert record is not None and dict(record.originals) == {"1": silu, "3": None}


def test_what_is_forgotten_is_gone_from_copies_too() -> None:
    for model in (network(), fx.symbolic_trace(network())):
        converted = actswap.convert(model, "acon_c", X).model
        forget(converted)
        assert record_of(converted) is None and plan_of(copy.deepcopy(converted)) is None


def test_something_else_under_the_same_name_is_no_record() -> None:
    model = network()
    assert record_of(model) is None
    model.__dict__["_actswap_record"] = {"plan": None}
    assert record_of(model) is None and plan_of(model) is None
