"""Tensors in every memory order that users meet: permuted, cut, stepped over, expanded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor


def permuted(t: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return t with its axes in this order in memory, outermost first."""
    back = [order.index(axis) for axis in range(t.dim())]
    return t.permute(order).contiguous().permute(back)


def cut(t: Tensor, axis: int, order: tuple[int, ...]) -> Tensor:
    """Return t as a slice of a tensor that is longer along an axis and has its axes in this order in memory."""
    more = t.narrow(axis, 0, 1)
    return permuted(torch.cat([more, t, more], axis), order).narrow(axis, 1, t.shape[axis])


def stepped(t: Tensor, axis: int) -> Tensor:
    """Return t as every second entry of a tensor that is twice as long along an axis."""
    return t.repeat_interleave(2, axis)[(*[slice(None)] * axis, slice(None, None, 2))]


def expanded(t: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return a tensor of t's shape that repeats t's first entry along axes, with stride 0."""
    shape = t.shape
    for axis in axes:
        t = t.narrow(axis, 0, 1)
    return t.expand(shape)


def axis_orders(rank: int, most: int) -> list[tuple[int, ...]]:
    """Return orders of the axes: as they are, channels last, the reverse, then others evenly chosen up to `most`."""
    axes = tuple(range(rank))
    first = list(dict.fromkeys([axes, (*axes[:1], *axes[2:], *axes[1:2]), axes[::-1]]))
    rest = [order for order in permutations(axes) if order not in first]
    wanted = most - len(first)
    return first + (rest[:: -(-len(rest) // wanted)] if wanted > 0 else [])


def memory_orders(t: Tensor, most: int = 24) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor): all have t's values but the expanded ones, which repeat t's first entries.

    Args:
        t: a dense tensor.
        most: the number of permutations of the axes to yield.
    """
    axes = tuple(range(t.dim()))
    dense, channels_last, *_ = [*axis_orders(t.dim(), most), axes]
    for order in axis_orders(t.dim(), most):
        yield f"order {order}", permuted(t, order)
    for axis in axes:
        yield f"cut along {axis}", cut(t, axis, dense)
        yield f"channels last, cut along {axis}", cut(t, axis, channels_last)
        yield f"stepped along {axis}", stepped(t, axis)
    for repeated in dict.fromkeys([*((axis,) for axis in axes), axes, axes[2:]]):
        if repeated:
            yield f"expanded along {repeated}", expanded(t, repeated)
