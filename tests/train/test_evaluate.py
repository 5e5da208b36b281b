"""Scores, and loans of mode and weights that are given back whatever happens."""

from __future__ import annotations

import pytest
import torch
import tune_toy
from torch import nn
from torch.utils.data import TensorDataset

from actswap.train.evaluate import evaluate, in_mode, lent_state


def test_accuracy_is_the_share_of_right_classes_in_eval_mode():
    class Sign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return torch.stack([-x, x], 1) * self.weight

    x = torch.tensor([-1.0, 2.0, 3.0, -4.0, 5.0])
    labels = torch.tensor([0, 1, 0, 0, 1])
    model = Sign().train()
    assert evaluate(model, TensorDataset(x, labels), batch=2) == 0.8
    assert model.training


def test_each_module_gets_its_own_mode_back():
    model = tune_toy.toy().train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError), in_mode(model, training=False):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert [module.training for module in model.modules()] == modes


def test_lent_weights_are_taken_back():
    model = nn.Linear(2, 1)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lent = {name: tensor + 1 for name, tensor in own.items()}
    with lent_state(model, lent):
        assert torch.equal(model.weight, lent["weight"])
    assert torch.equal(model.weight, own["weight"])
    with lent_state(model, None):
        assert torch.equal(model.weight, own["weight"])


def test_a_network_without_parameters_is_scored_too():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    assert evaluate(nn.Identity(), TensorDataset(scores, torch.tensor([0, 1, 1]))) == pytest.approx(2 / 3)
