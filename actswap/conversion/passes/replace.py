"""Pass `replace`: put the target activation where `isolate` left the source's stand-in.

Requires: `isolate` ran; a SourceModule stands at every path. Ensures: at every path stands the target with its start,
on the device and in the dtype of the network around it.

Cases of what is put there:
1. The source has a cap (relu6, hardtanh): `Bounded(target, shift, cap)`.
2. The start is `morph`: `Morph(source, target, t=0)`.
3. Otherwise the target itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from actswap import activations
from actswap.activations.base import Activation
from actswap.activations.bounded import Bounded, split
from actswap.activations.morph import Morph
from actswap.activations.plain import SourceModule, known
from actswap.capture.private_random import private_torch
from actswap.conversion.passes.surgery import set_module, take_hooks
from actswap.plan import Choice
from actswap.sites import Number


def build(choice: Choice, standing: nn.Module | None = None) -> nn.Module:
    """Make the module that stands at a choice's path.

    Args:
        choice: the choice.
        standing: what stands there now; it computes a source that no formula can.
    """
    spec = activations.get(choice.target)
    site, start = choice.site, choice.start
    with private_torch(_seed(choice)):  # the same numbers on every run, and those of other threads stay untouched
        target = spec.build(site.channels, site.channel_dim, **choice.options)
    _, shift, cap = split(site.source)
    placed = Bounded(target, shift, cap) if math.isfinite(cap) or shift else target
    load_start(placed, start.params)
    if start.kind == "morph":
        if known(site.source) or standing is None:
            return Morph(SourceModule(site.source, site.channel_dim), placed)
        return Morph(standing.source if isinstance(standing, Morph) else standing, placed)
    return placed


def _seed(choice: Choice) -> int:
    """Return a seed that differs from site to site and does not depend on their order."""
    return int.from_bytes(hashlib.sha256(f"{choice.seed}:{choice.path}".encode()).digest()[:6], "little")


def load_start(placed: nn.Module, params: Mapping[str, Number]) -> None:
    """Write start values into a module made by `build`, through its wrappers."""
    while isinstance(placed, (Morph, Bounded)):
        placed = placed.target if isinstance(placed, Morph) else placed.inner
    if params:
        assert isinstance(placed, Activation)
        placed.load_start(params)


def replace(model: nn.Module, choice: Choice) -> nn.Module:
    """Put the target of a choice into the model, and return it."""
    parent = model.get_submodule(choice.path.rpartition(".")[0])
    device, dtype = surroundings(model, parent)
    standing = model.get_submodule(choice.path)
    placed = build(choice, standing)
    if device is not None and device.type == "meta":
        placed = placed.to_empty(device=device)
    placed = placed.to(device=device, dtype=dtype)
    if not (isinstance(placed, Morph) and placed.source is standing):  # else it goes on running its own
        take_hooks(placed, standing)
    set_module(model, choice.path, placed)
    return placed


def settle_precision(model: nn.Module, choices: Iterable[Choice]) -> None:
    """Give targets the precision of the network around them, if they were put in while it was in another one."""
    placed = {choice.path: model.get_submodule(choice.path) for choice in choices}
    own = {id(t) for module in placed.values() for t in (*module.parameters(), *module.buffers())}
    for path, module in placed.items():
        around = (model.get_submodule(path.rpartition(".")[0]), model)
        tensors = (t for m in around for t in (*m.parameters(), *m.buffers()))
        dtype = next((t.dtype for t in tensors if t.is_floating_point() and id(t) not in own), None)
        if dtype is not None:
            module.to(dtype=dtype)


def surroundings(model: nn.Module, parent: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and floating dtype of the parameters nearest to the site."""
    for module in (parent, model):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                device = _execution_device(model) if tensor.is_meta else None
                return device or tensor.device, tensor.dtype
    return None, None


def _execution_device(model: nn.Module) -> torch.device | None:
    """Where a model computes whose weights accelerate keeps elsewhere: they are on the meta device between two runs."""
    for module in model.modules():
        hook = vars(module).get("_hf_hook")
        for one in (hook, *getattr(hook, "hooks", ())):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None
