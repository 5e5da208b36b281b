"""A function that looks like another passes on exactly what it was given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from actswap.capture.same_signature import same_signature


def plain(self, x, y=3): ...
def positional(self, x, /, y, *, z=1): ...
def stars(self, *args, **kwargs): ...
def keywords(self, x, *, named, other=None, **more): ...
def everything(self, a, b=2, /, c=3, *rest, d, e=5, **more): ...


CALLS = [
    (plain, (1,), {}),
    (plain, (1,), {"y": 5}),
    (positional, (1, 2), {"z": 3}),
    (stars, (1, 2), {"k": 3}),
    (keywords, (1,), {"named": 2, "extra": 3}),
    (everything, (1,), {"d": 4}),
    (everything, (1, 2, 3, 4, 5), {"d": 6, "f": 7}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_what_is_passed_on_binds_to_the_same_arguments(function: Callable, args: tuple, kwargs: dict) -> None:
    like = same_signature(function, lambda self, *given: given)
    assert inspect.signature(like) == inspect.signature(function) and like.__name__ == function.__name__
    given_args, given_kwargs = like(None, *args, **kwargs)
    signature = inspect.signature(function)
    one, other = signature.bind(None, *args, **kwargs), signature.bind(None, *given_args, **given_kwargs)
    one.apply_defaults()
    other.apply_defaults()
    assert one == other


def test_wrong_calls_fail_as_they_did() -> None:
    like = same_signature(keywords, lambda self, *given: given)
    for args, kwargs in (((), {"named": 1}), ((1, 2), {"named": 1}), ((1,), {})):
        with pytest.raises(TypeError):
            like(None, *args, **kwargs)


def test_defaults_are_the_same_objects_and_a_lambda_has_a_name() -> None:
    default = object()
    like = same_signature(lambda self, x=default: x, lambda self, args, kwargs: args)
    assert like(None)[0] is default


def test_fx_traces_a_forward_made_so() -> None:
    def forward(self: nn.Module, x: torch.Tensor, scale: float = 2.0) -> Any: ...

    like = same_signature(forward, lambda self, args, kwargs: torch.relu(args[0]) * args[1])
    model = type("Net", (nn.Module,), {"forward": like})()
    traced = fx.symbolic_trace(model)
    assert torch.equal(traced(torch.tensor([-1.0, 1.0]), 3.0), torch.tensor([0.0, 3.0]))
