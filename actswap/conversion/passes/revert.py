"""Pass `revert`: the original model again, bit for bit.

Requires: a model converted in this process or loaded from a bundle. Ensures: every island has its own forward back,
every replaced child is the original module, every added child is gone.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from actswap.capture.duplicate import duplicate
from actswap.capture.graph_module import restore_graphs
from actswap.capture.island import uninstall
from actswap.capture.wrappers import network_in, refuse_sharded, renew
from actswap.conversion.passes.fused_kernels import fused
from actswap.conversion.passes.surgery import module_at, set_module
from actswap.plan import Plan
from actswap.record import forget, record_of, the_converted


def revert(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Return the original model.

    Args:
        model: a converted model; it keeps its class, its weights and its mode.
        inplace: change `model` itself instead of a copy.

    Returns:
        The model with the modules and forwards that it had before its first conversion. What stands around the network
        (DDP, `torch.compile`, a LightningModule) stays around it.

    Raises:
        UsageError: the model was not converted by actswap, or its weights are sharded.

    >>> import torch, actswap
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.randn(8, 4)
    >>> again = actswap.revert(actswap.convert(model, "acon_c", x).model)
    >>> again[1], torch.equal(again(x), model(x))
    (ReLU(), True)
    """
    the_converted(model, "revert")
    refuse_sharded(network_in(model), "revert")
    whole = model if inplace else duplicate(model)
    _, work = the_converted(whole, "revert")
    record = record_of(work)
    assert record is not None
    plan: Plan | None = record.plan
    while plan is not None:
        undo(work, plan, {})
        plan = plan.before
    _restore(work, dict(record.originals))
    forget(work)
    renew(whole)
    return whole


def undo(model: nn.Module, plan: Plan, originals: Mapping[str, nn.Module | None]) -> None:
    """Take back one plan: the forwards of its islands, and the modules that stood at its paths."""
    for island in plan.islands:
        owner = network_in(model.get_submodule(island.owner))
        if isinstance(owner, fx.GraphModule):
            restore_graphs(owner)
        uninstall(owner)
    for module, _, _ in fused(model, plan):
        uninstall(module)
    _restore(model, originals)


def _restore(model: nn.Module, originals: Mapping[str, nn.Module | None]) -> None:
    for path, original in reversed(list(originals.items())):
        if original is not None:
            _follow(original, model.get_submodule(path))
            set_module(model, path, original)
            continue
        parent, _, name = path.rpartition(".")
        around = module_at(model, parent)
        if around is not None and name in around._modules:
            delattr(around, name)


def _follow(original: nn.Module, standing: nn.Module) -> None:
    """Move a kept module (PReLU has weights) to where the network has gone since it was converted."""
    here = next((t for t in (*standing.parameters(), *standing.buffers()) if t.is_floating_point()), None)
    if here is not None and not here.is_meta:
        original.to(device=here.device, dtype=here.dtype)
