"""The loss of a step: cross-entropy, smoothed in training only, and a mixture with what the teacher says."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actswap.train.config import TuneConfig
from actswap.train.distill import FeaturePairs, logit_loss
from actswap.train.objective import Objective

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 2, 0, 1, 2])


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def objective(model: nn.Module, teacher: nn.Module | None = None, **settings: float) -> Objective:
    return Objective(model, TuneConfig(**settings), None, teacher, nullcontext)


def test_without_a_teacher_it_is_the_cross_entropy() -> None:
    model = net()
    made = objective(model)
    assert made.constant_guess == 1.0
    assert torch.equal(made.of_step(model, X, TARGET, None), F.cross_entropy(model(X), TARGET))
    assert made.constant_guess == pytest.approx(math.log(3)), "three classes guessed evenly"


def test_labels_are_smoothed_in_train_mode_only() -> None:
    model = net()
    made = objective(model, label_smoothing=0.1)
    y = model(X)
    assert torch.equal(made.plain(y, TARGET), F.cross_entropy(y, TARGET, label_smoothing=0.1))
    model.eval()
    assert torch.equal(made.plain(y, TARGET), F.cross_entropy(y, TARGET))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_distillation_mixes_both_losses_and_the_teacher_gets_no_gradient(share: float) -> None:
    model, teacher = net(), net(1)
    found = objective(model, teacher, distill=share, distill_temperature=2.0).of_step(model, X, TARGET, None)
    y, z = model(X), teacher(X).detach()
    expected = (1 - share) * F.cross_entropy(y, TARGET) + share * logit_loss(y, z, 2.0)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is None for p in teacher.parameters()) and model[0].weight.grad is not None


def test_features_are_compared_anew_in_every_step() -> None:
    import actswap

    original = net()
    model = actswap.convert(original, "acon_c", X, verify=False).model
    with torch.no_grad():
        model[0].bias.add_(1.0)
    made = objective(model, original, distill=1.0, distill_features=0.5)
    with FeaturePairs(model, original) as features:
        first = made.of_step(model, X, TARGET, features)
        again = made.of_step(model, X, TARGET, features)
        plain = objective(model, original, distill=1.0).of_step(model, X, TARGET, None)
    assert torch.equal(first, again) and first > plain


def test_a_loss_of_the_data_takes_its_place() -> None:
    def squared(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean()

    model = net()
    made = Objective(model, TuneConfig(), squared, None, nullcontext)
    target = torch.zeros(6, 3)
    assert made.plain is squared and torch.equal(made.of_step(model, X, target, None), model(X).square().mean())
