"""The way back: trained activations that have become a plain one, within a tolerance, are replaced by it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from actswap.activations.base import Activation
from actswap.activations.hooks import hooked
from actswap.activations.plain import PLAIN, SourceModule, evaluate
from actswap.sites import Source

# In the order of cost: the first that is close enough is taken.
_FIRST = ("identity", "relu", "leaky_relu", "prelu", "hardswish", "silu", "quick_gelu", "gelu_tanh", "gelu")


def closest_plain(x: Tensor, y: Tensor, tolerance: float, channel_dim: int = 1) -> Source | None:
    """The first plain activation that computes y from x.

    LeakyReLU and PReLU are tried with the slopes that fit best, all others with default constants.

    Args:
        x: inputs of an activation.
        y: its outputs, like x.
        tolerance: largest |plain(x) - y| allowed, relative to the largest |y|.
        channel_dim: the channel axis of x.

    Returns:
        The plain activation, None if none is close enough.

    >>> x = torch.linspace(-4, 4, 9).reshape(1, 9)
    >>> str(closest_plain(x, torch.relu(x) + 1e-5, 1e-3))
    'relu'
    """
    x, y = x.double(), y.double()
    allowed = tolerance * float(y.abs().max())
    names = [*_FIRST, *(name for name in PLAIN if name not in _FIRST)]
    for source in (_candidate(name, x, y, channel_dim) for name in names):
        if float((evaluate(source, x, channel_dim) - y).abs().max()) <= allowed:
            return source
    return None


def _candidate(name: str, x: Tensor, y: Tensor, channel_dim: int) -> Source:
    """The plain activation of this name; slopes below zero by least squares on the negative inputs."""
    if name not in ("leaky_relu", "prelu"):
        return Source(name)
    below = torch.clamp(x, max=0.0).movedim(channel_dim, 0)
    values = y.movedim(channel_dim, 0)
    rows = (below.flatten(1), values.flatten(1)) if name == "prelu" else (below.reshape(1, -1), values.reshape(1, -1))
    slopes = (rows[0] * rows[1]).sum(1) / rows[0].square().sum(1).clamp_min(1e-300)
    found = tuple(round(s, 7) for s in slopes.tolist())
    return Source.of(name, slope=found if name == "prelu" else found[0])


def simplify(model: nn.Module, run: Callable[[], object], tolerance: float = 1e-3) -> dict[str, Source]:
    """Replace every trained activation of a model that is close to a plain one by the plain one.

    Args:
        model: changed in place; it must not be an activation itself.
        run: runs the model on real inputs; the first call of each activation is looked at.
        tolerance: largest difference allowed, relative to the largest output of the activation.

    Returns:
        What was put in, by module name; the others are left.
    """
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def look(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        seen.setdefault(module, (args[0].detach(), y.detach()))

    watched = [m for m in model.modules() if isinstance(m, Activation)]
    with hooked(m.register_forward_hook(look) for m in watched), torch.no_grad():
        run()

    replaced = {}
    for name, parent in list(model.named_modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, Activation) and child in seen:
                source = closest_plain(*seen[child], tolerance, child.channel_dim)
                if source is not None:
                    setattr(parent, key, SourceModule(source, child.channel_dim))
                    replaced[f"{name}.{key}".strip(".")] = source
    return replaced
