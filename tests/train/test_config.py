"""Settings and ramps: values between their ends, and every problem in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actswap.train import Ramp, TuneConfig


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_ramp_stays_between_its_ends_and_reaches_them(start, end, one, two, fraction):
    ramp = Ramp(start, end, min(one, two), max(one, two))
    slack = 1e-12 * (1 + abs(start) + abs(end))
    assert min(start, end) - slack <= ramp.at(fraction) <= max(start, end) + slack
    assert ramp.at(1.0) == end
    assert ramp.at(ramp.begin) == (start if ramp.until > ramp.begin else end)


def test_settings_without_problems_have_none():
    assert TuneConfig().problems() == []
    assert TuneConfig(on_divergence="hope").problems() == ["on_divergence = 'hope': one of stop, backoff, ignore"]
