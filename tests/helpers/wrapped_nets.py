"""What training tools put around a network, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel


class Trainer(nn.Module):
    """Holds a network as a LightningModule does, beside what only training needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def module_compiled(model: nn.Module) -> nn.Module:
    """`module.compile()`: the network itself, called through the compiler."""
    model.compile(backend="eager")
    return model


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DistributedDataParallel": DistributedDataParallel,
    "DataParallel": DataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "module.compile": module_compiled,
    "AveragedModel": AveragedModel,
    "Trainer": Trainer,
}
SHARDED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fully_shard": lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (1,))),
    "FSDP": lambda model: FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), sharding_strategy=ShardingStrategy.NO_SHARD
    ),
}
