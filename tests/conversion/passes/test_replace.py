"""Replacement: the target with its start, under the source's cap or in a morph, where the network computes."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest
import torch
from torch import nn

import actswap
from actswap.activations.bounded import Bounded
from actswap.activations.morph import Morph
from actswap.activations.plain import SourceModule
from actswap.conversion.passes.replace import build, replace, surroundings
from actswap.plan import Choice

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def choice_for(layer: nn.Module, target: str = "acon_c", **options: object) -> Choice:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), layer)
    (choice,) = actswap.convert(model, target, X, verify=False, **options).plan.choices
    return choice


def test_a_cap_stays_outside_the_target() -> None:
    placed = build(choice_for(nn.ReLU6()))
    assert isinstance(placed, Bounded) and placed.cap == 6.0 and placed.inner.name == "acon_c"
    shifted = build(choice_for(nn.Hardtanh(-2.0, 3.0)))
    assert isinstance(shifted, Bounded) and (shifted.shift, shifted.cap) == (-2.0, 3.0)


def test_a_morph_begins_as_the_source() -> None:
    placed = build(choice_for(nn.GELU(), "pau", start="morph"))
    assert isinstance(placed, Morph) and isinstance(placed.source, SourceModule) and placed.t == 0.0
    assert torch.equal(placed(X), nn.functional.gelu(X))


def test_random_starts_depend_on_the_seed_and_the_site_only() -> None:
    choice = choice_for(nn.ReLU(), "meta_acon")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(choice)
    assert torch.equal(torch.get_rng_state(), state), "the process's generator stays where it is"
    torch.manual_seed(2)
    assert torch.equal(build(choice).fc1.weight, first.fc1.weight)
    assert not torch.equal(build(changed(choice, seed=1)).fc1.weight, first.fc1.weight)
    assert not torch.equal(build(changed(choice, path="2")).fc1.weight, first.fc1.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_stands_in_the_type_of_its_surroundings(dtype: torch.dtype) -> None:
    choice = choice_for(nn.ReLU())
    model = nn.Sequential(nn.Linear(4, 4), SourceModule(choice.site.source)).to(dtype)
    placed = replace(model, choice)
    assert model[1] is placed and {p.dtype for p in placed.parameters()} == {dtype}
    assert surroundings(model, model[1])[1] == dtype and surroundings(nn.ReLU(), nn.ReLU()) == (None, None)


def test_on_the_meta_device_it_has_no_values() -> None:
    choice = choice_for(nn.ReLU())
    model = nn.Sequential(nn.Linear(4, 4), SourceModule(choice.site.source)).to("meta")
    assert all(p.is_meta for p in replace(model, choice).parameters())
