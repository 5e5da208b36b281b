"""What training starts from: the optimizer, and which parameters train."""

from __future__ import annotations

import pytest
import torch
import tune_toy
from torch import nn

from actswap.errors import UsageError
from actswap.train import TuneConfig, param_groups
from actswap.train.engine import make_optimizer, trainable_only


def test_the_optimizer_has_the_settings_and_the_groups():
    groups = param_groups(tune_toy.toy(), 0.01, 0.2, 0.7)
    sgd = make_optimizer(groups, TuneConfig(lr=0.2, momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["nesterov"] and sgd.defaults["momentum"] == 0.8
    assert {g["name"]: g["lr"] for g in sgd.param_groups} == {"weights": 0.2, "biases": 0.2, "activations": 0.7}
    assert not make_optimizer(groups, TuneConfig(momentum=0.0)).defaults["nesterov"]
    assert isinstance(make_optimizer(groups, TuneConfig(optimizer="adamw")), torch.optim.AdamW)


def test_only_the_activations_train_and_everything_is_as_before_afterwards():
    model = tune_toy.toy()
    model.act.p1.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="inside"), trainable_only(model, "activations"):
        assert [name for name, p in model.named_parameters() if p.requires_grad] == ["act.p2"]
        raise RuntimeError("inside")
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    with trainable_only(model, "all"):
        assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    with pytest.raises(UsageError, match="no activation to train"), trainable_only(nn.Linear(2, 2), "activations"):
        pass
