"""Random networks are converted with census and parity, or refused in words."""

from __future__ import annotations

import module_generator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_random_network(data: st.DataObject) -> None:
    model = module_generator.build(lambda n: data.draw(st.integers(0, n - 1)))
    target = data.draw(st.sampled_from(["acon_c", "silu", "swish", "dy_relu_b"]))
    module_generator.check(model, target)
