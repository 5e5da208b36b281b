"""Installed methods come and go, and copies and pickles of a module keep them."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actswap.capture.installed import Origin, install_functions, install_methods, uninstall_methods, written_class


class Doubling(nn.Module):
    """Doubles x; its own `scale` counts."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x * self.scale


def times(factor: float) -> Any:
    return lambda self, x: factor * x * self.scale


def again(base: type[nn.Module], text: str) -> nn.Module:
    """Make an empty instance whose methods are installed anew; pickles call this by name."""
    made = base.__new__(base)
    nn.Module.__init__(made)
    for layer in json.loads(text):
        install_methods(made, {"forward": times(layer["factor"])}, origin(layer["factor"]))
    return made


def origin(factor: float) -> Origin:
    return Origin(lambda: {"factor": factor}, again)


X = torch.tensor([1.0, -3.0])


def test_methods_are_installed_in_layers_and_taken_back_one_by_one() -> None:
    module = Doubling()
    install_methods(module, {"forward": times(3.0)}, origin(3.0))
    install_methods(module, {"forward": times(5.0)}, origin(5.0))
    assert torch.equal(module(X), 5 * X) and written_class(module) is Doubling and isinstance(module, Doubling)
    assert type(module).__name__ == "Doubling" and type(module).__doc__ == Doubling.__doc__
    assert uninstall_methods(module) and torch.equal(module(X), 3 * X)
    assert uninstall_methods(module) and torch.equal(module(X), 2 * X)
    assert type(module) is Doubling and not uninstall_methods(module)


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_keep_the_methods_and_the_weights(way: Any) -> None:
    module = Doubling()
    with torch.no_grad():
        module.scale.fill_(7.0)
    install_methods(module, {"forward": times(3.0)}, origin(3.0))
    install_methods(module, {"forward": times(5.0)}, origin(5.0))
    other = way(module)
    assert torch.equal(other(X), 35 * X) and (other.scale is module.scale) == (way is copy.copy)
    assert uninstall_methods(other) and torch.equal(other(X), 21 * X) and torch.equal(module(X), 35 * X)


def test_functions_on_the_instance_are_exchanged_and_come_back() -> None:
    def old(self: Doubling, x: Tensor) -> Tensor:
        return -x

    def new(self: Doubling, x: Tensor) -> Tensor:
        return 9 * x

    module = Doubling()
    module.forward, module.other = old.__get__(module), functools.partial(old, module)
    install_functions(module, {}, {old: new}, origin(1.0))
    assert torch.equal(module(X), 9 * X) and torch.equal(module.other(X), 9 * X)
    copied = copy.deepcopy(module)
    assert copied.forward.__self__ is copied and torch.equal(copied(X), 9 * X)
    uninstall_methods(module)
    assert torch.equal(module(X), -X) and torch.equal(module.other(X), -X) and torch.equal(copied(X), 9 * X)


def test_a_class_with_its_own_way_of_making_instances_is_refused_in_words() -> None:
    class Own(Doubling):
        def __reduce__(self) -> Any:
            return Doubling, ()

    module = Own()
    install_methods(module, {"forward": times(3.0)}, origin(3.0))
    with pytest.raises(pickle.PicklingError, match=r"actswap\.save"):
        pickle.dumps(module)
