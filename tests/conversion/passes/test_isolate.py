"""Isolation: the same function and the same names, with a module of its own at every chosen call."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conversion_nets import X, net
from torch import Tensor, nn

import actswap
from actswap.activations.plain import SourceModule
from actswap.conversion.passes.isolate import isolate, path_of
from actswap.conversion.passes.revert import undo
from actswap.errors import CaptureError
from actswap.plan import Plan


def plan_for(model: nn.Module) -> Plan:
    return actswap.convert(model, "acon_c", X, verify=False).plan


def test_every_path_holds_the_source_and_the_function_is_the_same() -> None:
    model = net()
    plan = plan_for(model)
    before, keys = model(X), set(model.state_dict())
    originals = isolate(model, plan)
    standing = [model.get_submodule(choice.path) for choice in plan.choices]
    assert all(type(module) is SourceModule for module in standing)
    assert [str(m.source) for m in standing] == [str(c.site.source) for c in plan.choices]
    # The same functions of the same numbers; `x * (x > 0)` and relu may round differently.
    torch.testing.assert_close(model(X), before, rtol=1e-5, atol=1e-6)
    assert type(model).__name__ == "Net" and keys - set(model.state_dict()) == {"act.weight"}, "PReLU's slopes moved in"
    undo(model, plan, originals)
    assert torch.equal(model(X), before) and set(model.state_dict()) == keys


def test_a_plan_that_cannot_be_carried_out_leaves_the_model_as_it_was() -> None:
    model = net()
    plan = plan_for(model)
    before, modules = model(X), [type(m) for m in model.modules()]
    broken = replace(plan.islands[-1], rewrites=tuple(replace(r, digest="0") for r in plan.islands[-1].rewrites))
    with pytest.raises(CaptureError):
        isolate(model, replace(plan, islands=(*plan.islands[:-1], broken)))
    assert [type(m) for m in model.modules()] == modules and torch.equal(model(X), before)


class Naming(nn.Module):
    """A function kept in an attribute that has the name a new child would take."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gelu = nn.Linear(3, 3), F.gelu
        self.inner = nn.Sequential(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.gelu(self.layer(x)))


def test_a_module_takes_the_name_of_its_site_unless_that_is_taken() -> None:
    model = Naming()
    assert path_of(model, "silu", "", "", "island", False) == "silu"
    assert path_of(model, "gelu", "", "", "island", False) == "gelu@0"
    assert path_of(model, "inner.0", "inner", "0", "swap", False) == "inner.0"
    assert path_of(model, "inner.0", "inner", "0", "island", True) == "inner.0@0", "another call still uses the child"
    assert path_of(model, "inner.0@1", "inner", "0", "island", False) == "inner.0@1"


def test_hooks_of_a_swapped_module_stay() -> None:
    model, seen = net(), []
    plan = plan_for(model)
    swapped = next(c for c in plan.choices if c.site.how == "swap")
    model.get_submodule(swapped.path).register_forward_hook(lambda *_: seen.append(1))
    other = copy.deepcopy(model)
    isolate(other, plan)
    other(X)
    assert seen == [1]
