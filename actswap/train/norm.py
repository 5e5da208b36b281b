"""BatchNorm while fine-tuning: frozen, with statistics gathered over processes, and taken anew at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from actswap.capture.evaluating import modes_kept


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm modules that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]
    return total


def _gathered_forward(norm: _BatchNorm) -> Any:
    """Forward of BatchNorm with the mean and variance of the whole batch over all processes.

    torch's SyncBatchNorm refuses tensors on the CPU. This one works on every device that has all_reduce, and changes
    neither the module nor its state_dict.
    """

    def forward(x: Tensor) -> Tensor:
        if not norm.training:
            plain: Tensor = type(norm).forward(norm, x)
            return plain
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x if x.dtype == torch.float64 else x.float()
        count = torch.tensor(float(x.numel() // x.shape[1]), device=x.device) * dist.get_world_size()
        mean = _summed(wide.sum(axes)) / count
        centred = wide - mean.reshape(shape)
        variance = _summed(centred.square().sum(axes)) / count
        assert norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            weight = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked or 1)
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), weight)
            norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), weight)
        y = centred * torch.rsqrt(variance + norm.eps).reshape(shape)
        if norm.weight is not None:
            y = y * norm.weight.reshape(shape) + norm.bias.reshape(shape)
        return y.to(x.dtype)

    return forward


@contextmanager
def gathered_statistics(model: nn.Module, world: int) -> Iterator[None]:
    """Let BatchNorm use the statistics of all processes' samples within the context."""
    norms = batch_norms(model) if world > 1 else []
    for norm in norms:
        norm.forward = _gathered_forward(norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


@torch.no_grad()
def reestimate(model: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Take BatchNorm's running statistics anew: the plain average over the given batches.

    Everything but BatchNorm runs in eval mode. This is needed after averaging weights, or after changing activations
    without training, because the old statistics belong to other weights.

    Args:
        model: the network, on the device of the inputs.
        inputs: batches.

    Returns:
        The number of batches; 0, without running anything, if the network has no BatchNorm.

    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> reestimate(model, [torch.tensor([[1.0], [3.0]])]), model[0].running_mean.item()
    (1, 2.0)
    """
    norms = batch_norms(model)
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    seen = 0
    with modes_kept(model):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        try:
            for x in inputs:
                model(x)
                seen += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return seen
