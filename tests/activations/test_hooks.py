"""Hooks leave with the block that registered them, whatever happens in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn
from torch.utils.hooks import RemovableHandle

from actswap.activations.hooks import hooked


def hooks(module: nn.Module) -> int:
    return len(module._forward_hooks)


def test_hooks_are_there_inside_the_block_only() -> None:
    layers = [nn.ReLU(), nn.Tanh()]
    with hooked(layer.register_forward_hook(lambda *_: None) for layer in layers):
        assert [hooks(layer) for layer in layers] == [1, 1]
    assert [hooks(layer) for layer in layers] == [0, 0]


def test_hooks_leave_when_the_block_raises() -> None:
    layer = nn.ReLU()
    with pytest.raises(KeyError), hooked([layer.register_forward_hook(lambda *_: None)]):
        raise KeyError
    assert hooks(layer) == 0


def test_hooks_leave_when_a_later_registration_raises() -> None:
    layer = nn.ReLU()

    def handles() -> Iterator[RemovableHandle]:
        yield layer.register_forward_hook(lambda *_: None)
        raise ValueError("the second one cannot be registered")

    with pytest.raises(ValueError, match="second"), hooked(handles()):
        pytest.fail("the block must not begin")
    assert hooks(layer) == 0


def test_hooks_of_others_stay() -> None:
    layer = nn.ReLU()
    layer.register_forward_hook(lambda *_: None)
    with hooked([layer.register_forward_hook(lambda *_: None)]):
        pass
    assert hooks(layer) == 1
