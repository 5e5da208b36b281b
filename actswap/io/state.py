"""The weights of a network as they are saved: each tensor once, on the CPU, gathered if the network is sharded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actswap.capture.wrappers import gathered, is_sharded, parts_of_peft, without_wrappers
from actswap.errors import UsageError

State = tuple[dict[str, Tensor], dict[str, str]]


def state_of(model: nn.Module, name: str = "") -> State | None:
    """Return each distinct tensor of a network once, and a table of the names that share one: name -> its name.

    Args:
        model: the model; if it is sharded, every rank must call this.
        name: the name of the network in it.

    Returns:
        The tensors and the table; None on the ranks that do not write.

    Raises:
        UsageError: the state holds something that is no tensor, or adapters of PEFT are still apart from the weights.
    """
    network = model.get_submodule(name)
    adapters = parts_of_peft(network)
    if adapters:
        raise UsageError(
            f"PEFT has put an adapter into {len(adapters)} layers of this {type(network).__name__}, e.g. {adapters[0]}",
            why="a bundle holds the weights of the network that was converted, and their names have changed",
            fix="merge the adapters first: actswap.save(peft_model.merge_and_unload(), ...)",
        )
    if not is_sharded(model):
        return _distinct(network.state_dict())
    state = gathered(model)
    if state is None:
        return None
    prefix = f"{clean}." if (clean := without_wrappers(name)) else ""
    return _distinct({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def _distinct(state: Mapping[str, Any]) -> State:
    kept: dict[str, Tensor] = {}
    alias: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"the state {name!r} of the model is a {type(value).__name__}, not a tensor",
                fix="save it as an exported program: --format pt2",
            )
        value = value.detach()
        key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in seen:
            alias[name] = seen[key]
            continue
        seen[key] = name
        kept[name] = value.cpu().clone(memory_format=torch.contiguous_format)
    return kept, alias


@contextmanager
def all_ranks(model: nn.Module) -> Iterator[None]:
    """Let no rank of a sharded model go on before the one that writes has written, or has failed."""
    try:
        yield
    finally:
        if is_sharded(model):
            torch.distributed.barrier()
