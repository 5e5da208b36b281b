"""Schedules: straight lines that set the modules they name."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from activation_modules import C, sample
from torch import nn

from actswap import nn as AN
from actswap.activations.plain import SourceModule
from actswap.errors import UsageError
from actswap.sites import Source


def test_schedules_anneal_and_finalize() -> None:
    model = nn.Sequential(
        OrderedDict(
            a=AN.Morph(SourceModule(Source("gelu")), AN.AconC(C)),
            b=nn.Sequential(AN.Morph(SourceModule(Source("tanh")), AN.DyReLUC(C))),
        )
    )
    rise, cool = AN.morph_schedule(10), AN.temperature_schedule(10)
    assert [rise(s) for s in (-1, 0, 5, 10, 99)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert [cool(s) for s in (0, 10, 50)] == [10.0, 1.0, 1.0]
    assert AN.anneal(model, "t", rise, 5) == 2 and AN.anneal(model, "tau", cool, 5) == 1
    assert model.a.t == 0.5 and model.b[0].target.tau == 5.5
    with pytest.raises(UsageError, match=r"t = 0\.5"):
        AN.finalize(model)
    AN.anneal(model, "t", rise, 10)
    x = sample()
    before = model(x)
    assert AN.finalize(model) == 2 and isinstance(model.a, AN.AconC) and isinstance(model.b[0], AN.DyReLUC)
    assert torch.equal(model(x), before)
