"""BatchNorm statistics taken anew are those of the batches."""

from __future__ import annotations

import torch
import tune_toy
from torch import nn

from actswap.train import reestimate


def test_statistics_taken_anew_are_those_of_the_batches():
    model = tune_toy.toy(dropout=0.5).double()
    inputs = [torch.randn(8, 1, 9, 9, dtype=torch.float64) for _ in range(3)]
    model.norm.running_mean.fill_(7.0)
    modes = [module.training for module in model.modules()]
    assert reestimate(model, inputs) == 3
    maps = [model.conv(x).detach() for x in inputs]
    torch.testing.assert_close(model.norm.running_mean, torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert modes == [module.training for module in model.modules()] and model.norm.momentum == 0.1
    assert reestimate(nn.Linear(2, 2), [torch.zeros(1, 2)]) == 0
