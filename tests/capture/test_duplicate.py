"""Copies of models are deep, whatever they hold; models set up for distributed training are refused in words."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actswap.capture.duplicate import duplicate
from actswap.capture.wrappers import refuse_sharded
from actswap.errors import UsageError


class Keeping(nn.Module):
    """Keeps tensors with a gradient history in every kind of container."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.cache: dict[str, Any] = {"list": [], "ordered": OrderedDict(), "last": None}

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        self.cache["list"].append((y,))
        self.cache["ordered"]["y"] = self.cache["last"] = y
        return y


def test_computed_tensors_are_copied_by_value() -> None:
    model = Keeping()
    with pytest.raises(RuntimeError, match="deepcopy"):
        model(torch.ones(1, 2))
        copy.deepcopy(model)
    again = duplicate(model)
    held = again.cache["list"][0][0]
    assert torch.equal(held, model.cache["last"]) and held.is_leaf and held is not model.cache["last"]
    # One tensor in three places stays one tensor.
    assert held is again.cache["last"] is again.cache["ordered"]["y"]
    assert again.layer.weight is not model.layer.weight and torch.equal(again.layer.weight, model.layer.weight)


def test_tied_weights_stay_tied_and_modes_are_kept() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    model[1].eval()
    again = duplicate(model)
    assert again[2].weight is again[0].weight
    assert [m.training for m in again.modules()] == [m.training for m in model.modules()]


def test_a_model_that_cannot_be_copied_is_refused_in_words() -> None:
    model = nn.Sequential(nn.ReLU())
    model.lock = (n for n in ())  # generators cannot be copied
    with pytest.raises(UsageError, match="inplace=True"):
        duplicate(model)


def test_distributed_models_are_refused_by_name() -> None:
    kind = type("DistributedDataParallel", (nn.Sequential,), {"__module__": "torch.nn.parallel.distributed"})
    with pytest.raises(UsageError, match="convert first, then distribute: DistributedDataParallel"):
        refuse_sharded(nn.Sequential(kind(nn.ReLU())))
    refuse_sharded(type("DistributedDataParallel", (nn.Sequential,), {"__module__": "mine"})())
