"""Several adapters on one base: `add_adapter` puts one more beside the first, `use` switches between them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import nn

from actswap.errors import LoadError, UsageError
from actswap.io.adapter import BASE, Adapter, adapters_of, digest_of, put_heads, register
from actswap.io.bundle_files import checked
from actswap.record import plan_of


def use(model: nn.Module, name: str) -> nn.Module:
    """Switch a network to one of its adapters, in place.

    Args:
        model: what `actswap.load` gave for an adapter; `actswap.add_adapter` adds more.
        name: of the adapter: the folder's name, or what `add_adapter` was told; "" is the converted base.

    Returns:
        The model.

    Raises:
        UsageError: there is no adapter of this name.

    >>> import actswap, tempfile, torch
    >>> base, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.randn(3, 4)
    >>> base = base.requires_grad_(False)  # only the activations train
    >>> trained = actswap.convert(base, "acon_c", x).model
    >>> folder = actswap.save(trained, tempfile.mkdtemp() + "/sharper", only_trained=True)
    >>> model = actswap.load(folder, base)
    >>> actswap.use(model, "") is actswap.use(model, "sharper")
    True
    """
    known = adapters_of(model)
    if name not in known:
        names = ", ".join(repr(each) for each in known) or "none"
        raise UsageError(f"no adapter {name!r}", why=f"known: {names}", fix="actswap.add_adapter(model, name, folder)")
    base, wanted = known[BASE], known[name]
    tensors = {**base.tensors, **wanted.tensors}
    put_heads(model, {**base.heads, **wanted.heads}, tensors, name)
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for entry, value in tensors.items():
            state[entry].copy_(value)
    return model


def add_adapter(model: nn.Module, name: str, path: str | os.PathLike[str]) -> nn.Module:
    """Give a network one more adapter of the same plan and base; `use` switches to it.

    Args:
        model: what `actswap.load` gave for another adapter.
        name: for `use`.
        path: the adapter's folder.

    Returns:
        The model; what it computes is unchanged.

    Raises:
        UsageError: the model carries no adapter, or the name is taken.
        LoadError: the adapter is damaged, or was made by another plan or for another base. Nothing is changed then.

    >>> import actswap, tempfile, torch
    >>> base, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.randn(3, 4)
    >>> base = base.requires_grad_(False)  # only the activations train
    >>> trained = actswap.convert(base, "acon_c", x).model
    >>> folder = actswap.save(trained, tempfile.mkdtemp() + "/first", only_trained=True)
    >>> model = actswap.add_adapter(actswap.load(folder, base), "second", folder)
    >>> _ = actswap.use(model, "second")
    """
    known, plan = adapters_of(model), plan_of(model)
    if not known or plan is None:
        raise UsageError("this model carries no adapter", fix="model = actswap.load(first_adapter, base_model)")
    if name in known:
        raise UsageError(f"the name {name!r} is taken", fix="another name")
    document, tensors = checked(Path(path))
    if "adapter" not in document:
        raise LoadError(f"{path} is no adapter", why="it holds the whole network", fix="actswap.load(path, base_model)")
    if document["plan"] != json.loads(json.dumps(plan.to_dict())):
        raise LoadError(
            f"the adapter {path} was made by another conversion", fix="load it apart: actswap.load(path, base_model)"
        )
    state = {**model.state_dict(), **known[BASE].tensors}
    unknown = sorted(set(tensors) - set(state))
    rest = {entry: value for entry, value in state.items() if entry not in tensors}
    if unknown or digest_of(rest) != document["adapter"].get("base"):
        raise LoadError(f"the adapter {path} was made for another base", fix="actswap.load(path, its_base_model)")
    heads = document.get("heads", {})
    wrong = [n for n, v in tensors.items() if v.shape != state[n].shape and n.rpartition(".")[0] not in heads]
    if wrong:
        raise LoadError(f"{wrong[0]} of the adapter {path} has another shape", fix="save the adapter again")
    before = {entry: state[entry].detach().clone() for entry in tensors}
    register(model, name, Adapter(tensors, heads), before)
    return model
