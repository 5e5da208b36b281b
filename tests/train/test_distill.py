"""Losses of distillation, and the modules whose features are compared."""

from __future__ import annotations

import pytest
import torch
import tune_toy
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from actswap.conversion.pipeline import convert
from actswap.errors import UsageError
from actswap.train.distill import FeaturePairs, logit_loss, paired_modules


@given(st.floats(0.5, 20))
def test_the_logit_loss_is_a_divergence(temperature):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    assert float(logit_loss(a, a, temperature)) == pytest.approx(0, abs=1e-5 * temperature**2)
    p, q = torch.softmax(a.double() / temperature, 1), torch.softmax(b.double() / temperature, 1)
    expected = float((q * (q / p).log()).sum() / 5) * temperature**2
    # float32 logarithms: 1e-7 absolute each, times T^2
    assert float(logit_loss(a, b, temperature)) == pytest.approx(expected, rel=1e-4, abs=1e-6 * temperature**2)


class Blocks(nn.Module):
    """One site as a module of its own, one inside a block that the teacher computes with a function."""

    def __init__(self, converted: bool) -> None:
        super().__init__()
        self.act = tune_toy.Slopes(2) if converted else nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(2, 2, 1))
        if converted:
            self.block.add_module("relu", tune_toy.Slopes(2))

    def forward(self, x):
        return self.block(self.act(x))


def test_features_are_compared_at_sites_and_where_those_are_hidden_at_their_owner():
    student, teacher = Blocks(True), Blocks(False)
    assert paired_modules(student, teacher) == ["act", "block"]
    x = torch.randn(2, 2, 3, 3)
    with FeaturePairs(student, teacher) as pairs:
        student(x), teacher(x)
        a, b = student.act(x), teacher.act(x)
        one = (a - b).square().mean() / b.square().mean()
        pairs.clear()
        a, b = student(x), teacher(x)
        two = (a - b).square().mean() / b.square().mean()
        torch.testing.assert_close(pairs.loss(), (one + two) / 2)
    assert not student.act._forward_hooks and not teacher.block._forward_hooks
    with pytest.raises(UsageError, match="no site"):
        FeaturePairs(nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()))


def test_features_of_plain_targets_are_compared_too():
    """A deployment recipe (SiLU to Hardswish) has no trainable activation, but sites all the same."""
    teacher = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(3, 4)
    for start in ("morph", "none"):
        assert paired_modules(convert(teacher, "hardswish", x, start=start, verify=False).model, teacher) == ["1"]
