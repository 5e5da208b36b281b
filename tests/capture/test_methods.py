"""The functions that a module runs are found on its class, on the instance, and inside decorators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from actswap.capture.methods import (
    function_in,
    functions_named,
    innermost,
    instance_forward,
    method_around,
    method_named,
    methods_of,
    rewrapped,
)
from actswap.errors import CaptureError


def twice(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return 2 * function(*args)

    return call


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(Hider(function))


class Hider:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Base(nn.Module):
    def forward(self, x: int) -> int:
        return x

    def inherited(self, x: int) -> int:
        return x


class Owner(Base):
    @twice
    def forward(self, x: int) -> int:
        add = lambda v: v + 1
        return sum([add(v) for v in (x, x)])


def test_methods_are_found_under_their_names() -> None:
    owner = Owner()
    names = dict(methods_of(owner))
    assert set(names) == {"forward", "inherited"} and names["forward"] is Owner.forward.__wrapped__
    assert method_named(owner, names["forward"].__code__) == "forward"
    assert method_named(owner, Base.forward.__code__) is None, "it is overridden and never runs"


def test_functions_on_the_instance_are_found_too() -> None:
    owner = Owner()

    def other(self: nn.Module, x: int) -> int:
        return -x

    for held in (other.__get__(owner), functools.partial(other, owner)):
        owner.forward = held
        assert function_in(held, owner) is other
        assert functions_named(owner, "forward") == [Owner.__dict__["forward"], other]
        assert method_named(owner, other.__code__) == "forward" and instance_forward(owner) in ("partial", "other")
    assert function_in(other.__get__(Owner()), owner) is None, "bound to somebody else"


def test_code_inside_a_method_belongs_to_it() -> None:
    owner = Owner()
    forward = Owner.forward.__wrapped__.__code__
    (inner,) = [c for c in forward.co_consts if getattr(c, "co_name", "") == "<lambda>"]
    assert method_around(owner, inner) is forward and method_around(owner, other_code()) is None


def other_code() -> Any:
    return (lambda: 0).__code__


def test_a_new_function_goes_where_the_decorator_holds_the_old_one() -> None:
    old = innermost(Owner.forward)
    assert old is not None

    def new(self: nn.Module, x: int) -> int:
        return 100 * x

    again = rewrapped(Owner.forward, old, new)
    assert again(Owner(), 3) == 600 and Owner().forward(3) == 2 * 8
    assert rewrapped(old, old, new) is new


def test_a_decorator_that_hides_the_function_is_refused_in_words() -> None:
    def plain(x: int) -> int:
        return x

    with pytest.raises(CaptureError, match="hides it"):
        rewrapped(hidden(plain), plain, lambda x: -x)
