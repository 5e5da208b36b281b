"""Start Lightning Fabric, make the optimizer, and choose which parameters train."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from actswap.errors import UsageError
from actswap.train.config import TuneConfig
from actswap.train.groups import activation_parameters


def start_fabric(config: TuneConfig) -> Any:
    """Start Fabric, alone or as one of the processes that torchrun started.

    Raises:
        UsageError: Lightning Fabric is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise UsageError(
            "fine-tuning needs Lightning Fabric", why=str(error), fix="pip install 'actswap[tune]'"
        ) from error
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    precision: Any = config.precision
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=local if world > 1 else 1,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


def make_optimizer(groups: list[dict[str, Any]], config: TuneConfig) -> torch.optim.Optimizer:
    """Make the optimizer that the config names, for groups of `param_groups`."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr)


@contextmanager
def trainable_only(model: nn.Module, which: str) -> Iterator[None]:
    """Freeze everything but the activations if asked to, and restore what was trainable before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    if which == "activations":
        wanted = {id(parameter) for parameter in activation_parameters(model).values()}
        if not wanted:
            raise UsageError(
                "no activation to train", why="the network has no trainable activation", fix='train = "all"'
            )
        for parameter, _ in before:
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in wanted)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
