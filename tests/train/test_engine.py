"""What training starts from: the optimizer."""

from __future__ import annotations

import torch
import tune_toy

from actswap.train import TuneConfig, param_groups
from actswap.train.engine import make_optimizer


def test_the_optimizer_has_the_settings_and_the_groups():
    groups = param_groups(tune_toy.toy(), 0.01, 0.2, 0.7)
    sgd = make_optimizer(groups, TuneConfig(lr=0.2, momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["nesterov"] and sgd.defaults["momentum"] == 0.8
    assert {g["name"]: g["lr"] for g in sgd.param_groups} == {"weights": 0.2, "biases": 0.2, "activations": 0.7}
    assert not make_optimizer(groups, TuneConfig(momentum=0.0)).defaults["nesterov"]
    assert isinstance(make_optimizer(groups, TuneConfig(optimizer="adamw")), torch.optim.AdamW)
