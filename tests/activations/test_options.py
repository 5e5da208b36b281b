"""Options of any type and size are taken or refused in words, for every target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import actswap
from actswap.activations import SPECS
from actswap.activations.options import Real, Whole
from actswap.errors import ActswapError, UsageError

WRONG: tuple[Any, ...] = ("x", {}, float("nan"), float("inf"), 1e300)  # for options of every kind
STRANGE: tuple[Any, ...] = (None, 0, -1, [], True, 10**9)


def outcome(target: str, options: dict[str, Any]) -> str:
    """`taken` if the network runs with these options, else the message."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()).eval()
    x = torch.randn(2, 3, 4, 4)
    try:
        model = actswap.convert(net, target, x, start="none", options=options, verify="outputs").model
        with torch.no_grad():
            model(x)
    except ActswapError as error:
        return str(error)
    return "taken"


@pytest.mark.parametrize("target", [name for name, spec in SPECS.items() if spec.options])
def test_no_option_ends_in_an_exception_of_another_library(target: str) -> None:
    for name in SPECS[target].options:
        for value in WRONG:
            assert name in outcome(target, {name: value}), value
        for value in STRANGE:
            assert outcome(target, {name: value}), value  # taken, or refused in words


@pytest.mark.parametrize(("target", "name", "value"), [("meta_acon", "r", 0), ("dy_relu_b", "lambda_a", "x")])
def test_the_message_names_the_option_and_what_it_may_be(target: str, name: str, value: Any) -> None:
    assert f"{name}" in outcome(target, {name: value}) and "number" in outcome(target, {name: value})


def test_numbers_are_bounded_by_what_can_be_stored() -> None:
    assert Real().accepts(3.4e38) and not Real().accepts(3.5e38)
    assert Whole().accepts(65536) and not Whole().accepts(65537)
    with pytest.raises(UsageError, match="65536"):
        actswap.convert(nn.Sequential(nn.ReLU()), "meta_acon", torch.ones(1, 4, 2, 2), options={"r": 1 << 20})
