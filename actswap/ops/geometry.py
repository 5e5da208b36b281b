"""How a tensor looks to the kernels: batch, groups, channels and inner positions, with strides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple


class Geometry(NamedTuple):
    """Extents and the strides of batch, group, channel and inner, in elements."""

    extents: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]


Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape and strides of a tensor


def agreeing(tensors: Sequence[Layout], dim: int, merge: bool, gated: bool) -> list[Geometry] | None:
    """Return geometries under which the same indices name the same element in every tensor.

    Args:
        tensors: shape and strides of each tensor; one shape, no axis empty.
        dim: the channel axis, not negative.
        merge: all channels share their parameters, so dense tensors may be one long row.
        gated: samples along axis 0 must stay apart.

    Returns:
        One geometry per tensor, all with the same extents; None if the tensors need dense copies first.

    >>> agreeing([((2, 3, 4), (12, 4, 1)), ((2, 3, 4), (24, 4, 1))], 1, False, False)
    [Geometry(extents=(2, 1, 3, 4), strides=(12, 0, 4, 1)), Geometry(extents=(2, 1, 3, 4), strides=(24, 0, 4, 1))]
    """
    if merge and not gated and (row := _one_row(tensors)) is not None:
        return [row] * len(tensors)
    found = [geometry(shape, strides, dim, gated) for shape, strides in tensors]
    first = found[0]
    if first is None:
        return None
    # Extents alone do not tell planes from rows: a plane of one position and a row of one channel look alike.
    if any(g is None or g.extents != first.extents or (g.strides[3] == 1) != (first.strides[3] == 1) for g in found):
        return None
    return [g for g in found if g is not None]


def geometry(shape: tuple[int, ...], strides: tuple[int, ...], dim: int, gated: bool) -> Geometry | None:
    """Return the geometry of one tensor, None if the kernels need a dense copy first.

    Batch and inner run over their axes in the order of the shape, whatever the strides are.

    Args:
        shape: its shape, no axis empty.
        strides: its strides.
        dim: the channel axis, not negative.
        gated: samples along axis 0 must stay apart.
    """
    before = [(n, s) for n, s in zip(shape[:dim], strides[:dim], strict=True) if n != 1]
    after = [(n, s) for n, s in zip(shape[dim + 1 :], strides[dim + 1 :], strict=True) if n != 1]
    channels, channel_stride = shape[dim], strides[dim]
    if gated:
        sample = [(shape[0], strides[0])]
        inner = before[int(shape[0] != 1) :] + after
    else:
        sample, inner = before, after
    # Planes: the inner axes are one dense run. (NCHW, also cut along N or C.)
    if inner and _collapse(inner) == 1 and _collapse(sample) is not None:
        n = prod(a for a, _ in sample)
        return Geometry((n, 1, channels, prod(a for a, _ in inner)), (_collapse(sample) or 0, 0, channel_stride, 1))
    # Rows: channels are dense, everything else steps over them. (NHWC, NLC, a plain matrix.)
    if channel_stride == 1 or channels == 1:
        rows = inner if gated else [*before, *after]
        step = _collapse(rows)
        if step is not None:
            n = shape[0] if gated else 1
            step = step if rows else channels
            return Geometry((n, 1, channels, prod(a for a, _ in rows)), (strides[0] if gated else 0, 0, 1, step))
    return None


def _one_row(tensors: Sequence[Layout]) -> Geometry | None:
    """Return the geometry of tensors that are dense in one and the same order of their axes, None if they are not."""
    shape, first = tensors[0]
    order = sorted((axis for axis in range(len(shape)) if shape[axis] != 1), key=lambda axis: -first[axis])
    for _, strides in tensors:
        if order and _collapse([(shape[axis], strides[axis]) for axis in order]) != 1:
            return None
    count = prod(shape)
    return Geometry((1, 1, 1, count), (count, 0, count, 1))


def _collapse(axes: list[tuple[int, int]]) -> int | None:
    """Return the stride of the one axis that these axes, outermost first, amount to; None if there is none."""
    for (_, outer), (n, inner) in pairwise(axes):
        if outer != n * inner:
            return None
    return axes[-1][1] if axes else 0
