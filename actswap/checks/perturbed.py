"""Perturbed weights: move every parameter and buffer, to find those that were folded into a constant.

Two networks that agree on their present weights may be different functions of them: a gain of 1 was left out, or a bias
of 0 became a constant. So the weights of both are moved by the same amounts, and the outputs are compared again. The
Python numbers that a traced forward reads from its module (`self.scale`) are moved too.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from actswap.checks.parity import run

MOVED = 0.05  # relative to a tensor's typical size: far above rounding, yet the network still works
_PERIOD = 8191  # the random pattern repeats after this many numbers; a prime, so that rows differ
_NOT_MOVED = frozenset(("training", "eps", "momentum"))


@contextmanager
def moved(
    model: nn.Module, names: Collection[str], amount: float = MOVED, owners: Collection[str] = ()
) -> Iterator[None]:
    """Move the weights of a model inside the block, by the same amounts in every model that has the same names.

    Every floating parameter and buffer w becomes w (1 + amount n) + amount s m. s is the root mean square of a sample
    of w (`amount` itself if that is 0). n and m are normal random numbers that depend on the tensor's name. A tensor
    without negative numbers gets none.

    Args:
        model: its tensors hold other memory meanwhile.
        names: the parameters and buffers to move; names that the model does not have are ignored.
        amount: how far they are moved.
        owners: names of modules whose float attributes are moved too.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept: list[tuple[Tensor, Tensor]] = []
    numbers: list[tuple[nn.Module, str, float]] = []
    try:
        with torch.no_grad():
            for name, t in tensors.items():
                if name not in names or not t.is_floating_point() or t.layout is not torch.strided or t.numel() == 0:
                    continue
                if is_traceable_wrapper_subclass(t):  # its memory is not its own
                    continue
                kept.append((t, t.data))
                t.data = _moved_tensor(t.data, name, amount)
        for owner in owners:
            module = model.get_submodule(owner)
            for name, value in list(vars(module).items()):
                if type(value) is float and name not in _NOT_MOVED and abs(value) < 1e30:
                    numbers.append((module, name, value))
                    module.__dict__[name] = _moved_number(value, amount)
        yield
    finally:
        for t, was in kept:
            t.data = was
        for module, name, value in numbers:
            module.__dict__[name] = value


def perturbed_run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    names: Collection[str],
    owners: Collection[str] = (),
) -> list[Tensor]:
    """Return the outputs of a model in eval mode with moved weights."""
    with moved(model, names, owners=owners):
        return run(model, args, kwargs)


def _moved_tensor(t: Tensor, name: str, amount: float) -> Tensor:
    """Return a moved copy. The passes over its memory are the cost, so there are as few as possible."""
    out = torch.empty_like(t, memory_format=torch.contiguous_format)
    flat, to = t.reshape(-1), out.view(-1)
    some = flat[:: -(-flat.numel() // _PERIOD)]
    some = some[some.isfinite()].float()
    size = float(some.square().mean().sqrt()) if some.numel() else 0.0
    positive = bool((some >= 0).all()) and bool(t.amin() >= 0)
    period = min(t.numel(), _PERIOD)
    begin = zlib.crc32(name.encode()) % _PERIOD
    n, m = _noise()[:, begin : begin + period]
    factor, added = (1 + amount * n).to(t), (amount * (size or amount) * m).to(t)
    whole = t.numel() // period * period
    for part, moved in ((flat[:whole], to[:whole]), (flat[whole:], to[whole:])):
        rows, width = (part.view(-1, period), period) if part.numel() >= period else (part[None], part.numel())
        torch.addcmul(added[:width], rows, factor[:width], out=moved.view_as(rows))
    if positive:
        to.abs_()
    return out if t.is_contiguous() else torch.empty_like(t).copy_(out)


@functools.lru_cache(1)
def _noise() -> Tensor:
    """Return two rows of normal random numbers, cut at 3; every tensor takes a part that depends on its name."""
    return torch.randn(2, 2 * _PERIOD, generator=torch.Generator().manual_seed(0)).clamp_(-3, 3)


def _moved_number(value: float, amount: float) -> float:
    return value + (1 - value) * amount if 0 <= value < 1 else value * (1 - amount)
