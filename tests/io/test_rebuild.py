"""Objects are built from a description: empty, then filled; what could run later is refused."""

from __future__ import annotations

import functools
import pickle
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from hostile import Pickle, module_state
from torch import nn

from actswap.errors import LoadError
from actswap.io.pickles import describe
from actswap.io.rebuild import Rebuild

LINEAR = ("torch.nn.modules.linear", "Linear")


def rebuilt(data: bytes, allow: tuple[str, ...] = ()) -> Any:
    return Rebuild(lambda key: torch.UntypedStorage(0), 1 << 10, allow).value(describe(data))


@pytest.mark.parametrize(
    "value",
    [
        (1, [2, {"k": {3}}], frozenset((4,)), bytearray(b"x")),
        OrderedDict(a=1, b=[2]),
        Counter("aab"),
        slice(1, 2, 3),
        complex(1.0, -2.0),
        torch.Size((2, 3)),
        torch.device("cpu"),
        torch.float16,
        torch.strided,
    ],
    ids=str,
)
def test_containers_and_constants_are_built_again(value: Any) -> None:
    again = rebuilt(pickle.dumps(value, 2))
    assert again == value and type(again) is type(value)


def test_a_container_may_hold_itself_and_is_built_once() -> None:
    circle: list[Any] = [1]
    circle += [circle, {"again": circle}]
    again = rebuilt(pickle.dumps(circle, 2))
    assert again[1] is again and again[2]["again"] is again


def test_defaults_have_known_factories() -> None:
    again = rebuilt(pickle.dumps(defaultdict(list, a=[1]), 2))
    assert again == {"a": [1]} and again.default_factory is list
    with pytest.raises(LoadError, match="factory of its own"):
        rebuilt(Pickle().call("collections", "defaultdict", Pickle().name("os", "getcwd")).data + b".")


def test_an_instance_is_made_without_its_constructor() -> None:
    again = rebuilt(Pickle().new(*LINEAR, module_state(in_features=7)).data + b".")
    assert type(again) is nn.Linear and again.in_features == 7 and not again._parameters
    with pytest.raises(LoadError, match="calls the constructor"):
        rebuilt(Pickle().call(*LINEAR, 2, 2).raw(b"}b").data + b".")


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"forward": 1}, "in front of the one of its class"),
        ({"__class__": 1}, "the attribute"),
        ({"_forward_hooks": {1: 2}}, "hooks are programs"),
        ({"training": 1}, "without a mode"),
        ({"_modules": {"a.b": None}}, "odd names"),
        ({"_parameters": {"w": 1}}, "missing or of another type"),
        ({"attn_implementation": "user/repository:kernel"}, "which transformers would fetch"),
    ],
)
def test_states_that_would_change_what_a_module_does(state: dict[str, Any], why: str) -> None:
    with pytest.raises(LoadError, match=why):
        rebuilt(Pickle().new(*LINEAR, {**module_state(), **state}).data + b".")


def test_partials_of_layers_take_numbers_and_words_only() -> None:
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    again = rebuilt(pickle.dumps(norm, 2))
    assert isinstance(again, functools.partial) and again.func is nn.LayerNorm and again.keywords == {"eps": 1e-6}
    for value in (1 << 17, [1]):
        with pytest.raises(LoadError, match="partial with"):
            rebuilt(pickle.dumps(functools.partial(nn.LayerNorm, eps=value), 2))
    with pytest.raises(LoadError, match="partial of"):
        rebuilt(pickle.dumps(functools.partial(pickle.loads, encoding="latin1"), 2))


def test_nesting_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    data = pickle.dumps(deep, 2)
    with pytest.raises(LoadError, match="too deep"):
        rebuilt(data)

    def far_down(levels: int) -> Any:
        return rebuilt(data) if levels == 0 else far_down(levels - 1)

    with pytest.raises(LoadError, match="too deep"):  # the stack ends before the limit is reached
        far_down(500)
