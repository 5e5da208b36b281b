"""Good states: the last one first, then the one before it; and what an error advises."""

from __future__ import annotations

import pytest

from actswap.train import TuneConfig
from actswap.train.backoff import Backoff
from actswap.train.checkpoint import Position
from actswap.train.divergence import Diverged

PROBLEM = Diverged(9, "the loss is nan", "a (PAU)", "its output is not finite")


def at(step: int) -> Position:
    return Position({"step": step}, {}, None, {})


def test_the_last_good_state_and_then_the_one_before_it():
    backoff = Backoff(TuneConfig(), trains_activations=True)
    for step in (0, 5, 10):
        backoff.keep(at(step))
    assert [backoff.last_good().step for _ in range(3)] == [10, 5, 5]
    backoff.keep(at(7))
    assert [backoff.last_good().step for _ in range(3)] == [7, 5, 5]


def test_each_return_lowers_the_rates_and_the_fifth_is_the_last():
    backoff = Backoff(TuneConfig(on_divergence="backoff"), trains_activations=True)
    for count in range(5):
        assert backoff.may and backoff.factor == pytest.approx(0.1**count)
        assert backoff.note(PROBLEM, at(3))["to"] == 3
    assert not backoff.may and len(backoff.entries) == 5
    assert not Backoff(TuneConfig(on_divergence="backoff"), trains_activations=False).may
    assert not Backoff(TuneConfig(on_divergence="stop"), trains_activations=True).may


def test_the_advice_fits_what_was_trained(tmp_path):
    error = Backoff(TuneConfig(activation_lr=0.2), True).error(PROBLEM, at(3), lambda: tmp_path)
    assert error.where == "a (PAU)" and str(tmp_path) in error.why and "step 3" in error.why
    assert "--on-divergence backoff" in error.fix and "activation_lr=0.02" in error.fix
    error = Backoff(TuneConfig(lr=0.5), False).error(PROBLEM, at(3), lambda: None)
    assert "activation_lr" not in error.fix and "0.5" in error.fix and "the model has them again" in error.why
