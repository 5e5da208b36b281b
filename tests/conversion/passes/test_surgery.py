"""Putting a module at a path: its mode, its hooks, and what stands there now."""

from __future__ import annotations

import torch
from torch import nn

from actswap.conversion.passes.surgery import module_at, set_module, take_hooks


def test_a_module_takes_the_mode_of_its_parent() -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU())
    model[0].eval()
    for path, training in (("0.0", False), ("1", True), ("0.new", False)):
        made = nn.Sequential(nn.Dropout())
        set_module(model, path, made)
        assert module_at(model, path) is made
        assert made.training is made[0].training is training


def test_paths_that_lead_nowhere_hold_nothing() -> None:
    model = nn.Sequential(nn.ReLU())
    assert module_at(model, "0.missing") is None and module_at(model, "1") is None and module_at(model, "") is model


def test_hooks_are_taken_over_and_then_the_modules_own() -> None:
    seen: list[str] = []
    old, new = nn.ReLU(), nn.Tanh()
    handle = old.register_forward_hook(lambda *_: seen.append("forward"))
    old.register_forward_pre_hook(lambda *_: seen.append("before"))
    old.register_full_backward_hook(lambda *_: seen.append("backward"))
    take_hooks(new, old)
    new(torch.ones(2, requires_grad=True)).sum().backward()
    assert seen == ["before", "forward", "backward"]
    handle.remove()
    seen.clear()
    new(torch.ones(2))
    assert seen == ["before", "forward"], "removing a hook of the old module leaves the new one its own"
