"""How a tensor looks to the kernels: batch, groups, channels and inner positions, with strides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import NamedTuple


class Geometry(NamedTuple):
    """Extents and the strides of batch, group, channel and inner, in elements."""

    extents: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]


@lru_cache(maxsize=4096)
def geometry(shape: tuple[int, ...], strides: tuple[int, ...], dim: int, merge: bool, gated: bool) -> Geometry | None:
    """Return the geometry of a tensor, None where the kernels need a dense copy first.

    Args:
        shape: its shape, no axis empty.
        strides: its strides.
        dim: the channel axis, not negative.
        merge: all channels share their parameters, so a dense tensor is one long row.
        gated: samples along axis 0 must stay apart.
    """
    count = prod(shape)
    axes = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    if merge and not gated and (not axes or _collapse(sorted(axes, key=lambda a: -a[1])) == 1):
        return Geometry((1, 1, 1, count), (count, 0, count, 1))
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


def _collapse(axes: list[tuple[int, int]]) -> int | None:
    """Return the stride of the one axis that these axes amount to, None where they do not."""
    for (_, outer), (n, inner) in pairwise(axes):
        if outer != n * inner:
            return None
    return axes[-1][1] if axes else 0


def agreeing(
    tensors: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], dim: int, merge: bool, gated: bool
) -> list[Geometry] | None:
    """Return geometries of tensors, given as (shape, strides), that differ in nothing but strides; None if none do.

    Args:
        tensors: of one shape.
        dim: the channel axis, not negative.
        merge: all channels share their parameters.
        gated: samples along axis 0 must stay apart.
    """
    for merged in (True, False) if merge else (False,):
        found = [geometry(shape, strides, dim, merged, gated) for shape, strides in tensors]
        first = found[0]
        if first is not None and all(
            g is not None and g.extents == first.extents and (g.strides[3] == 1) == (first.strides[3] == 1)
            for g in found
        ):
            return [g for g in found if g is not None]
    return None
