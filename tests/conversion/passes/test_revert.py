"""The way back: every module, forward and child is the original one, after one conversion or several."""

from __future__ import annotations

import pytest
import torch
from conversion_nets import X, net, same_state, shape_of, state_of
from torch import nn

import actswap
from actswap.conversion.passes.revert import revert
from actswap.errors import UsageError
from actswap.record import record_of


def test_the_original_comes_back_bit_for_bit() -> None:
    model = net()
    before, structure = state_of(model), shape_of(model)
    converted = actswap.convert(model, "meta_acon", X, verify=False).model
    back = revert(converted)
    assert same_state(back, before) and shape_of(back) == structure and torch.equal(back(X), model(X))
    assert record_of(back) is None and record_of(converted) is not None


def test_in_place_the_converted_model_itself_goes_back() -> None:
    model = net()
    converted = actswap.convert(model, "acon_c", X, verify=False).model
    assert revert(converted, inplace=True) is converted and same_state(converted, state_of(model))


def test_several_conversions_are_taken_back_together() -> None:
    model = net()
    once = actswap.convert(model, "acon_c", X, only=["blocks.*"], verify=False).model
    twice = actswap.convert(once, "swish", X, only=["relu"], start="none", verify=False).model
    assert torch.equal(revert(twice)(X), model(X)) and same_state(revert(twice), state_of(model))


def test_trained_weights_stay_and_modules_follow_the_network() -> None:
    """What training changed around the activations is kept; a kept PReLU moves to the network's type."""
    model = net()
    converted = actswap.convert(model, "acon_c", X, verify=False).model.double()
    with torch.no_grad():
        converted.stem.weight.add_(1.0)
    back = revert(converted)
    assert torch.equal(back.stem.weight, model.stem.weight.double() + 1.0)
    assert back.act.weight.dtype == torch.float64 and isinstance(back.act, nn.PReLU)


def test_a_model_that_was_not_converted_is_refused() -> None:
    with pytest.raises(UsageError, match="was not converted by actswap"):
        revert(net())
