"""Adapters: the trained tensors of a converted network alone, bound to the weights that were not trained.

An adapter is a bundle whose `model.safetensors` holds only what was trained: activations, new heads and what else `tune
--train` named. `plan.json` holds the digest of all the other tensors, so an adapter loads onto its own base and no
other. `actswap.io.switching` switches between several on one base.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from actswap.activations.base import Activation
from actswap.conversion.head import is_head, like, new_heads, put, refit
from actswap.errors import LoadError, UsageError
from actswap.record import trained_in

_ADAPTERS = "_actswap_adapters"
BASE = ""  # the name of what the adapters change, as it was


@dataclass(frozen=True)
class Adapter:
    """What an adapter changes.

    Attributes:
        tensors: by name in the network's state.
        heads: widths of new heads, and of the units behind them.
    """

    tensors: Mapping[str, Tensor]
    heads: Mapping[str, int]


def trained_names(network: nn.Module) -> set[str]:
    """Return the state entries that were trained: what an adapter holds.

    These are everything in the trainable activations and new heads, what `tune` trained, and the statistics of a
    BatchNorm that trained. If `tune` was not used, what was trained is what requires a gradient.

    Raises:
        UsageError: everything was trained.
    """
    state = set(network.state_dict())
    names = set(trained_in(network)) or {n for n, p in network.named_parameters() if p.requires_grad}
    owners = [n for n, m in network.named_modules() if isinstance(m, Activation)] + list(new_heads(network))
    for name, module in network.named_modules():
        own = {f"{name}.{n}" if name else n for n, _ in module.named_parameters(recurse=False)}
        if isinstance(module, _BatchNorm) and own & names:
            owners.append(name)
    names |= {entry for entry in state for owner in owners if entry.startswith(f"{owner}." if owner else "")}
    if not state - names:
        raise UsageError(
            "an adapter would hold the whole network",
            why="all of its tensors were trained",
            fix="actswap tune --train activations,head, or save a bundle",
        )
    return names & state


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: name, dtype, shape and bytes of each, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def complete(network: nn.Module, tensors: Mapping[str, Tensor], base: Any, where: str) -> dict[str, Tensor]:
    """Return an adapter's tensors together with those of the base, which must be the ones it was trained on.

    Args:
        network: the base with the plan applied.
        tensors: the adapter's.
        base: the digest that the adapter names.
        where: the adapter's folder, for the message.

    Raises:
        LoadError: the network's other tensors are not those of the adapter's base.
    """
    rest = {name: value for name, value in network.state_dict().items() if name not in tensors}
    if not isinstance(base, str) or digest_of(rest) != base:
        raise LoadError(
            f"the adapter {where} was made for another base",
            why="the weights of this model are not those that it was trained on",
            fix="give the base model itself: --base FILE",
        )
    return {**rest, **tensors}


def put_heads(
    network: nn.Module, heads: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str | os.PathLike[str]
) -> None:
    """Put new heads on a network; nothing changes where a layer has its width already.

    Raises:
        LoadError: the network has no such layer, or the weights have another width.
    """
    modules = dict(network.named_modules())
    for name, classes in heads.items():
        layer, weight = modules.get(name), tensors.get(f"{name}.weight")
        number = isinstance(classes, int) and not isinstance(classes, bool)
        if number and isinstance(layer, Activation) and classes in _widths(tensors, name):
            if layer.channels != classes:
                refit(layer, classes)
            continue
        fits = weight is not None and weight.dim() >= 2 and number and weight.shape[0] == classes
        if layer is None or not is_head(layer) or not fits:
            raise LoadError(
                f"the head {name[:80]!r} of {where} does not fit this model",
                why="no Linear or 1 x 1 convolution stands there, or its weights have another width",
                fix="give the base model that was converted",
            )
        if layer.weight.shape[0] != classes:
            put(network, name, like(layer, classes))


def _widths(tensors: Mapping[str, Tensor], name: str) -> set[int]:
    return {size for entry, value in tensors.items() if entry.startswith(f"{name}.") for size in value.shape}


def register(network: nn.Module, name: str, adapter: Adapter, before: Mapping[str, Tensor]) -> None:
    """Remember an adapter, and what the network held in its place before."""
    known = dict(adapters_of(network))
    base = known.get(BASE, Adapter({}, {}))
    fresh = {entry: value for entry, value in before.items() if entry not in base.tensors}
    widths = {n: _width(network, n, before) for n in adapter.heads if n not in base.heads}
    known[BASE] = Adapter({**base.tensors, **fresh}, {**base.heads, **widths})
    known[name] = adapter
    network.__dict__[_ADAPTERS] = known


def _width(network: nn.Module, name: str, before: Mapping[str, Tensor]) -> int:
    weight = before.get(f"{name}.weight")
    if is_head(network.get_submodule(name)) and weight is not None:
        return int(weight.shape[0])
    return max(_widths(before, name), default=1)


def adapters_of(network: nn.Module) -> dict[str, Adapter]:
    """Return the adapters that a network carries by name; `BASE` is what they change."""
    found: dict[str, Adapter] = network.__dict__.get(_ADAPTERS, {})
    return found
