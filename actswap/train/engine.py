"""Start Lightning Fabric, and make the optimizer."""

from __future__ import annotations

import os
from typing import Any

import torch

from actswap.errors import UsageError
from actswap.train.config import TuneConfig


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
