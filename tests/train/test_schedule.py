"""Rate curves and ramps stay in their bounds and reach their ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from actswap import activations
from actswap.activations.acon_c import AconC
from actswap.activations.morph import Morph
from actswap.errors import UsageError
from actswap.train import Ramp
from actswap.train.config import CURVES
from actswap.train.schedule import Ramps, rate_factor


@given(st.sampled_from(CURVES), st.floats(0, 1), st.floats(0.01, 0.9))
def test_a_rate_curve_peaks_at_the_end_of_its_warm_up(curve, fraction, warmup):
    assert 0 <= rate_factor(curve, fraction, warmup) <= 1
    assert rate_factor(curve, warmup, warmup) == pytest.approx(1)
    if curve != "constant":
        assert rate_factor(curve, 1.0, warmup) == pytest.approx(0, abs=1e-12)
        assert rate_factor(curve, 0.0, warmup) < 0.05


def test_the_beta_ramp_writes_the_sharpness_and_then_lets_go():
    model = nn.Sequential(AconC(3))
    ramps = Ramps(model, {"beta": Ramp(100.0, 10.0, 0.0, 0.5)})
    ramps.apply(0.0)
    torch.testing.assert_close(model[0].beta, torch.full((3,), 100.0))
    ramps.apply(0.25)
    torch.testing.assert_close(model[0].beta, torch.full((3,), 55.0))
    with torch.no_grad():
        model[0].log_beta.fill_(0.0)
    ramps.apply(0.75)
    assert torch.equal(model[0].log_beta, torch.zeros(3))


def test_morphs_and_temperatures_follow_their_ramps():
    morph, dynamic = Morph(nn.ReLU(), AconC(2)), activations.get("dy_relu_c").build(4)
    ramps = Ramps(nn.ModuleList([morph, dynamic]), {"morph": Ramp(0, 1, 0, 0.5), "temperature": Ramp(10, 1)})
    for fraction, t, tau in ((0.0, 0.0, 10.0), (0.25, 0.5, 7.75), (0.5, 1.0, 5.5), (1.0, 1.0, 1.0)):
        ramps.apply(fraction)
        assert morph.t == pytest.approx(t) and float(dynamic.tau) == pytest.approx(tau)


def test_a_ramp_that_nothing_answers_to_is_refused():
    for name in ("beta", "morph", "temperature"):
        with pytest.raises(UsageError, match=name):
            Ramps(nn.Linear(2, 2), {name: Ramp(0.0, 1.0)})
