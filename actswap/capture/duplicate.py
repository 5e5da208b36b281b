"""Copy a model, even if it holds computed tensors, and refuse models that cannot take new parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from actswap.capture.evaluating import one_at_a_time, set_modes
from actswap.capture.graph_module import preserve
from actswap.errors import UsageError, first_line

_WRAPPERS = ("FSDPModule", "FullyShardedDataParallel", "DistributedDataParallel")


def refuse_distributed(model: nn.Module) -> None:
    """Refuse a model whose gradients torch.distributed reduces: it would not reduce those of new parameters.

    Raises:
        UsageError: the model is sharded by `fully_shard`, or wrapped in FSDP or DDP.
    """
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
                how = "fully_shard" if kind.__name__ == "FSDPModule" else kind.__name__
                raise UsageError(
                    f"this {type(model).__name__} is set up for distributed training already",
                    why=f"new parameters would be unknown to {how}: neither sharded, nor their gradients reduced",
                    fix=f"convert first, then distribute: {how}(actswap.convert(model, ...).model)",
                )


def duplicate(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model.

    A model may hold tensors with a gradient history beside its parameters (a cache, an old-style weight norm). torch
    refuses to copy such a history, so only their values are copied.

    Raises:
        UsageError: the model cannot be copied.
    """
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _computed(model)}
    if isinstance(model, fx.GraphModule):
        for name in [n for n in vars(model) if n.startswith("_actswap")]:
            preserve(model, name)
    try:
        with one_at_a_time(model):
            copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise UsageError(
            f"this {type(model).__name__} cannot be copied",
            why=first_line(error),
            fix="actswap.convert(model, ..., inplace=True)",
        ) from error
    # A copy of torchvision's feature extractor is in train mode, whatever the original was in.
    set_modes([(new, old.training) for new, old in zip(copied.modules(), model.modules(), strict=False)])
    return copied


def _computed(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        stack: list[Any] = [vars(module)]
        while stack:
            item = stack.pop()
            if isinstance(item, Tensor) and not item.is_leaf:
                yield item
            elif type(item) is dict:
                stack += item.values()
            elif type(item) in (list, tuple) and len(item) <= 4096:
                stack += item
            elif isinstance(item, Mapping) and not isinstance(item, nn.Module):
                stack += item.values()
