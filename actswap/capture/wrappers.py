"""See through what training tools put around a network: compilation, replication, averages, sharding.

Such a wrapper computes what the network inside computes. So conversion, proof and bundles work on the network, and the
names of its sites and weights are those of the network alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from actswap.capture.quiet import quiet
from actswap.errors import UsageError

_FSDP1 = "FullyShardedDataParallel"
_WRAPPED = {  # class of the wrapper: its child that is the network
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEma": "module",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
}
_PACKAGES = ("torch", "timm")
_ADDED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:\.|$)")


def _is(module: nn.Module, name: str) -> bool:
    """Return whether torch or timm made this class; it is not imported, since that takes seconds for torch.compile."""
    return any(k.__name__ == name and k.__module__.partition(".")[0] in _PACKAGES for k in type(module).__mro__)


def network_in(model: nn.Module) -> nn.Module:
    """Return the network inside `torch.compile`, DataParallel, DDP and averaged models; any other model itself.

    >>> network = nn.Linear(2, 2)
    >>> network_in(nn.DataParallel(network)) is network, network_in(network) is network
    (True, True)
    """
    for kind, child in _WRAPPED.items():
        if _is(model, kind):
            return network_in(model.get_submodule(child))
    return model


def without_wrappers(name: str) -> str:
    """Return a name in the network without the parts that torch.compile, FSDP and checkpointing add.

    >>> without_wrappers("_fsdp_wrapped_module.layer1._orig_mod.relu")
    'layer1.relu'
    """
    return _ADDED.sub("", name).rstrip(".")


def is_sharded(model: nn.Module) -> bool:
    """Return True if `fully_shard` or FSDP holds only a part of some weights in this process."""
    return any(_is(m, "FSDPModule") or _is(m, _FSDP1) for m in model.modules())


def reshard(model: nn.Module) -> None:
    """Let `fully_shard` drop the whole weights that a forward has gathered, so that its state is that of its module."""
    for module in model.modules():
        if _is(module, "FSDPModule"):
            module.reshard()  # type: ignore[operator]


def gathered(model: nn.Module) -> dict[str, Tensor] | None:
    """Gather the whole weights of a sharded model on rank 0. Every rank must call this.

    Args:
        model: a model that is sharded, or holds a part that is.

    Returns:
        The weights by name, without the names of wrappers, on the CPU; None on other ranks.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    # Offloading spares the other ranks the whole model. On the CPU, FSDP reads freed memory then (torch 2.13).
    offload = next(model.parameters()).device.type != "cpu"
    with quiet():
        state: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=offload))
    if torch.distributed.get_rank() != 0:
        return None
    return {without_wrappers(name): value for name, value in state.items()}


def renew(model: nn.Module) -> None:
    """Tell the DDP around a network that the network has other parameters now, so that their gradients are reduced.

    Its options stay; a communication hook must be registered again.

    Raises:
        UsageError: it uses a process group of its own, which torch does not carry over.
    """
    while (inside := _next(model)) is not model:
        if _is(model, "DistributedDataParallel"):
            try:
                state = model.__getstate__()  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                raise UsageError(
                    "the parameters of this DistributedDataParallel cannot be exchanged",
                    why=str(error),
                    fix="DistributedDataParallel(actswap.convert(model.module, ...).model, process_group=...)",
                ) from error
            model.__setstate__(state)  # type: ignore[no-untyped-call]
        model = inside


def _next(model: nn.Module) -> nn.Module:
    return next((model.get_submodule(child) for kind, child in _WRAPPED.items() if _is(model, kind)), model)


def refuse_sharded(model: nn.Module, does: str = "convert") -> None:
    """Refuse a model whose weights are sharded, or that holds a DDP: new parameters would be unknown to those.

    Args:
        model: the model, without the wrappers around it (see `network_in`).
        does: what the user asked for: `convert`, `load` or `revert`.

    Raises:
        UsageError: the model, or a part of it, is set up for distributed training.
    """
    for module in model.modules():
        kinds = [k for k in ("FSDPModule", _FSDP1, "DistributedDataParallel") if _is(module, k)]
        if kinds:
            how = "fully_shard" if kinds[0] == "FSDPModule" else kinds[0]
            first = {
                "convert": f"convert first, then distribute: {how}(actswap.convert(model, ...).model)",
                "load": f"load first, then distribute: {how}(actswap.load(bundle, model))",
                "revert": "save gathers the weights: actswap.revert(actswap.load(actswap.save(model, 'out'), base))",
            }
            raise UsageError(
                f"this {type(model).__name__} is set up for distributed training already",
                why=f"new parameters would be unknown to {how}: neither sharded, nor their gradients reduced",
                fix=first[does],
            )


def parts_of_peft(model: nn.Module) -> list[str]:
    """Return the names of the layers that PEFT has put an adapter into."""
    return [name for name, module in model.named_modules() if type(module).__module__.partition(".")[0] == "peft"]


def common_prefixes(names: Iterable[str]) -> list[str]:
    """Return the dotted prefixes that all names share, the longest last.

    >>> common_prefixes(["model.net.relu", "model.net.body.relu"])
    ['model.', 'model.net.']
    """
    listed = [name.split(".") for name in names]
    shared: list[str] = []
    for parts in zip(*(name[:-1] for name in listed), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return [".".join(shared[: i + 1]) + "." for i in range(len(shared))]
