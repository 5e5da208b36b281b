"""Swish, ACON-B and ACON-C in Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from actswap.ops.contract import Kernel
from actswap.ops.triton.tiles import cells, flat, kernel, like, per_parameter, sums, tiles


@triton.jit  # type: ignore[untyped-decorator]
def _acon(  # type: ignore[no-untyped-def]
    x, g, y, partial, p1, p2, beta, step1, step2, step3, rows, columns, channels,
    PLANAR: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    at, mask, channel = cells(rows, columns, channels, PLANAR, ROWS, COLUMNS)
    a = tl.load(p1 + channel * step1)
    b = tl.load(p2 + channel * step2)
    d = a - b
    bd = tl.load(beta + channel * step3) * d
    v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    e = tl.exp(-tl.abs(bd * v))
    q = 1.0 / (1.0 + e)
    s = tl.where(bd * v < 0, e * q, q)
    if BACKWARD:
        u = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
        w = v * e * q * q
        t = s + bd * w
        tl.store(y + at, (u * (d * t + b)).to(y.dtype.element_ty), mask=mask)
        uv = u * v
        to, known, size = sums(partial, rows, columns, PLANAR, ROWS, COLUMNS)
        tl.store(to, tl.sum(uv * t, 1 if PLANAR else 0), mask=known)
        tl.store(to + size, tl.sum(uv * (1 - t), 1 if PLANAR else 0), mask=known)
        tl.store(to + 2 * size, tl.sum(uv * w * d * d, 1 if PLANAR else 0), mask=known)
    else:
        slope = d * s + b
        out = tl.where(slope == 0, 0.0, v * slope)
        tl.store(y + at, out.to(y.dtype.element_ty), mask=mask)


def _operator(p1: int | None, p2: int | None, beta: int) -> Kernel:
    """Build the kernel of one of the family from the positions of its arguments, None for p1 = 1 or p2 = 0."""
    dim = beta + 1

    def parameters(args: Sequence[Any]) -> list[tuple[Tensor, int]]:
        x = args[0]
        fixed = [(x.new_full((1,), v, dtype=torch.float32), 0) for v in (1.0, 0.0)]
        given = [fixed[i] if p is None else flat(args[p]) for i, p in enumerate((p1, p2))]
        return [*given, flat(args[beta])]

    def forward(args: Sequence[Any]) -> Tensor:
        x, cut = tiles(args[0], args[dim])
        y = torch.empty_like(x)
        (a, sa), (b, sb), (c, sc) = parameters(args)
        _acon[cut.grid](
            x, x, y, a, a, b, c, sa, sb, sc, cut.rows, cut.columns, cut.channels,
            PLANAR=cut.planar, BACKWARD=False, ROWS=cut.row_block, COLUMNS=cut.column_block,
        )  # fmt: skip
        return like(torch.empty_like(args[0]), y)

    def backward(grad: Tensor, args: Sequence[Any], needs: Sequence[bool]) -> list[Tensor | None]:
        x, cut = tiles(args[0], args[dim])
        dx, g = torch.empty_like(x), like(x, grad)
        partial = cut.partials(3, x.device)
        (a, sa), (b, sb), (c, sc) = parameters(args)
        _acon[cut.grid](
            x, g, dx, partial, a, b, c, sa, sb, sc, cut.rows, cut.columns, cut.channels,
            PLANAR=cut.planar, BACKWARD=True, ROWS=cut.row_block, COLUMNS=cut.column_block,
        )  # fmt: skip
        found: list[Tensor | None] = [like(torch.empty_like(args[0]), dx) if needs[0] else None]
        found += [None] * (len(needs) - 1)
        total = cut.total(partial)
        for row, position in enumerate((p1, p2, beta)):
            if position is not None and needs[position]:
                found[position] = per_parameter(total[row, :, None], args[position])
        return found

    return kernel(forward, backward, lambda args: "")


KERNELS: Mapping[str, Kernel] = {
    "swish": _operator(None, None, 1),
    "acon_b": _operator(None, 1, 2),
    "acon_c": _operator(1, 2, 3),
}
