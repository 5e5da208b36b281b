"""Module surgery that the passes share: put a module at a path, read the one that stands there, take over hooks."""

from __future__ import annotations

import copy

from torch import nn

from actswap.capture.wrappers import network_in

_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name and "state_dict" not in name)


def take_hooks(module: nn.Module, standing: nn.Module) -> None:
    """Let a module run the hooks of the one whose place it takes, from now on its own."""
    for name in _HOOKS:
        setattr(module, name, copy.copy(getattr(standing, name)))


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path below the model; it takes over the mode of its parent."""
    parent_path, _, name = path.rpartition(".")
    parent = network_in(model.get_submodule(parent_path))
    module.train(parent.training)
    parent.add_module(name, module)


def module_at(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path, without wrappers around it; None if there is none."""
    try:
        return network_in(model.get_submodule(path))
    except AttributeError:
        return None
