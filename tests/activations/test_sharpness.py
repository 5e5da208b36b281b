"""The trained sharpness: both of its forms, and how its gradient falls."""

from __future__ import annotations

import math

import pytest
import torch
from activation_modules import line

from actswap import nn as AN
from actswap.activations.plain import PLAIN
from actswap.activations.sharpness import GAP, sharpness, slope_below, swish_beta, vanishes_at_zero
from actswap.sites import Source


def test_sharp_swish_gradients_stay_finite_in_float32() -> None:
    x = torch.linspace(-30, 30, 4001).reshape(1, 1, -1).requires_grad_()
    module = AN.AconC(1, beta=1e6)
    module(x).sum().backward()
    assert x.grad.isfinite().all() and module.log_beta.grad.isfinite().all()


def test_log_beta_trains_where_beta_does_not() -> None:
    """df/d log beta = beta df/d beta: at most 0.4392 / beta instead of 0.4392 / beta^2."""
    beta, n = 100.0, 4001
    x = line(n, 0.1).reshape(1, n)  # as n channels, each with its own beta: the gradient comes out elementwise
    module = AN.Swish(n, beta=beta).double()
    module(x).sum().backward()
    assert module.log_beta.grad.abs().max().item() == pytest.approx(0.4392 / beta, rel=1e-3)


def test_both_forms_read_each_others_state_and_the_original_one() -> None:
    """log |beta| and a sign, beta itself, and the authors' (1, C, 1, 1) `beta`, all hold the same numbers."""
    beta = torch.tensor([2.0, -0.5, 30.0])
    units = {form: AN.Swish(3, beta=form) for form in ("log", "raw")}
    for unit in units.values():
        unit.load_state_dict({"beta": beta.reshape(1, 3, 1, 1)})
        torch.testing.assert_close(unit.beta, beta)  # exp of a logarithm
    for one, other in (("log", "raw"), ("raw", "log")):
        again = AN.Swish(3, beta=one)
        again.load_state_dict(units[other].state_dict())
        torch.testing.assert_close(again.beta, beta)


@pytest.mark.parametrize("form", ["log", "raw"])
def test_a_start_serves_both_forms(form: str) -> None:
    unit = AN.Swish(3, beta=form)
    unit.load_start(sharpness((2.0, -3.0, 0.0)))
    # A sign of 0 makes beta 0 whatever the logarithm.
    assert unit.beta.tolist() == pytest.approx([2.0, -3.0, 0.0])


def test_sources_with_a_sharpness_or_a_slope_are_known() -> None:
    assert swish_beta(Source("silu")) == 1.0 and swish_beta(Source("relu")) is None
    assert slope_below(Source.of("prelu", slope=(0.1, 0.2))) == (0.1, 0.2) and slope_below(Source("gelu")) is None
    assert slope_below(Source("leaky_relu")) == 0.01
    zero = [kind for kind in PLAIN if vanishes_at_zero(Source(kind))]
    assert {"relu", "gelu", "tanh"} <= set(zero) and not {"sigmoid", "softplus", "star_relu"} & set(zero)


def test_the_gap_is_the_largest_distance_from_relu() -> None:
    """max u sigmoid(-u), where its derivative s(-u) (1 - u s(u)) is 0: u s(u) = 1 there, so the value is u - 1."""
    u = 1.0
    for _ in range(60):  # Newton's iteration on u s(u) - 1
        s = 1 / (1 + math.exp(-u))
        u -= (u * s - 1) / (s + u * s * (1 - s))
    assert pytest.approx(u - 1, rel=1e-15) == GAP
