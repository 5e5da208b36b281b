"""What is said about trained units: slopes, coefficients, poles."""

from __future__ import annotations

import json

import pytest
import torch

from actswap import functional as F
from actswap import nn as AN
from actswap.activations.bounded import Bounded
from actswap.activations.describe import derivative_bounds, describe, describe_state, sentence
from actswap.activations.morph import Morph


@pytest.mark.parametrize(("p1", "p2", "beta"), [(1.0, 0.0, 4.0), (0.2, 1.3, 1.0), (1.0, -0.5, -3.0), (0.7, 0.7, 2.0)])
def test_the_slopes_of_acon_c_reach_their_bounds_and_stay_within(p1: float, p2: float, beta: float) -> None:
    x = torch.linspace(-60, 60, 120_001, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    (slope,) = torch.autograd.grad(F.acon_c(x, p1 * one, p2 * one, beta * one, 0).sum(), x)
    low, high = derivative_bounds(p1, p2, beta)
    # The grid's step of 1e-3 misses the extremum by at most f'''' (step / 2)^2 / 2, below 1e-5 here.
    assert low - 1e-9 <= float(slope.min()) <= low + 1e-5 and high - 1e-5 <= float(slope.max()) <= high + 1e-9


def test_bounds_are_taken_over_the_channels_and_through_wrappers() -> None:
    unit = AN.AconC(2)
    with torch.no_grad():
        unit.p1.copy_(torch.tensor([1.0, 2.0]))
    for module in (unit, Bounded(unit, 0.0, 6.0), Morph(torch.nn.ReLU(), unit)):
        found = describe(module)
        assert found["derivative"] == pytest.approx([-0.19968, 2.19968], abs=1e-4)
        assert "slope from -0.1997 to 2.2" in sentence(found)


@pytest.mark.parametrize("unit", [AN.PAU(3), AN.HP2(), AN.OPAU(tails="none", basis="legendre")])
def test_coefficients_are_the_same_from_the_module_and_from_its_state(unit: AN.PAU) -> None:
    with torch.no_grad():
        unit.coordinates.fill_(0.05)
    found = describe(unit)
    state = {f"net.act.{name}": value for name, value in unit.state_dict().items()}
    from_state = describe_state(state, "net.act.", (5, 4))
    top, bottom = unit.coefficients()
    for part, own in (("numerator", top), ("denominator", bottom)):
        assert torch.equal(torch.tensor(found[part], dtype=torch.float64).reshape(own.shape), own.detach().double())
        # The same sum of ten products, in another order.
        torch.testing.assert_close(torch.tensor(from_state[part]), torch.tensor(found[part]), rtol=1e-5, atol=1e-6)
    assert found["frozen"] == from_state["frozen"] == [0] * unit.width
    assert "no poles" in sentence(found)
    json.dumps(found, allow_nan=False)


def test_coordinates_that_do_not_train_are_counted() -> None:
    unit = AN.PAU(2)
    with torch.no_grad():
        unit.mix[1, :, :3] = 0.0
    assert describe(unit)["frozen"] == [0, 3]
    assert "3 of 10 coordinates do not train" in sentence(describe(unit))


def test_poles_are_shown() -> None:
    unit = AN.PAU(degrees=(2, 2), form="unsafe", tails="none")
    unit.load_state_dict({"a": torch.tensor([0.0, 1.0, 0.0]), "b": torch.tensor([0.0, -0.25])})
    assert describe(unit)["poles"] == [[pytest.approx(-2.0), pytest.approx(2.0)]]
    assert "poles at x = -2, 2" in sentence(describe(unit))


def test_a_unit_without_such_numbers_says_nothing() -> None:
    assert describe(AN.DyReLUB(4)) == {} and sentence({}) == ""
