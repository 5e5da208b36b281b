"""Saving gathers what is sharded, and refuses what would not fit its base any more."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from process_group import one_process
from small_net import SmallNet
from torch import nn
from wrapped_nets import SHARDED, Trainer

import actswap
from actswap.errors import FileError, UsageError
from actswap.io.state import state_of


@pytest.fixture(autouse=True, scope="module")
def _group():
    with one_process():
        yield


def fresh(seed: int = 0) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet().eval()


@pytest.mark.parametrize("holder", [lambda m: m, Trainer], ids=["bare", "in a trainer"])
@pytest.mark.parametrize("how", SHARDED)
def test_sharded_weights_are_gathered(how, holder, image, tmp_path):
    converted = actswap.convert(fresh(), "acon_c", image).model
    expected = {name: value.clone() for name, value in converted.state_dict().items()}
    sharded = holder(SHARDED[how](converted))
    sharded(image).sum().backward()
    actswap.save(sharded, tmp_path / "out")
    loaded = actswap.load(tmp_path / "out", fresh(9))
    state = loaded.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[k], expected[k]) for k in state)
    with pytest.raises(FileError):  # raised by every rank before any waits for another
        actswap.save(sharded, tmp_path / "out")


def test_tied_weights_are_saved_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    kept, alias = state_of(model)
    assert alias == {"1.weight": "0.weight"} and set(kept) == {"0.weight", "0.bias", "1.bias"}


def test_adapters_that_are_not_merged_are_refused(image, tmp_path, monkeypatch):
    package = ModuleType("peft.tuners.lora")
    layer = type("Linear", (nn.Linear,), {"__module__": package.__name__})
    monkeypatch.setitem(sys.modules, package.__name__, package)
    model = actswap.convert(fresh(), "acon_c", image).model
    model.head = layer(16, 5)
    with pytest.raises(UsageError, match=r"e\.g\. head(.|\n)*merge_and_unload"):
        actswap.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
