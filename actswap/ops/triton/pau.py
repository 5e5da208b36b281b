"""PAU in Triton: any degrees, all forms, with tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from actswap.ops.contract import Kernel
from actswap.ops.triton.tiles import (
    cells,
    flat,
    kernel,
    like,
    no_tails_gradient,
    per_parameter,
    straight,
    sums,
    tail,
    tiles,
)

_FORMS = {"unsafe": 0, "A": 1, "B": 2, "D": 2, "C": 3}


@triton.jit  # type: ignore[untyped-decorator]
def _pau(  # type: ignore[no-untyped-def]
    x, g, y, partial, a, b, tails, step_a, step_b, step_t, rows, columns, channels,
    P: tl.constexpr, Q: tl.constexpr, FORM: tl.constexpr,
    PLANAR: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    at, mask, channel = cells(rows, columns, channels, PLANAR, ROWS, COLUMNS)
    slope_low, slope_high = tail(tails, channel, step_t, 3), tail(tails, channel, step_t, 4)
    v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    within = tl.minimum(tl.maximum(v, tail(tails, channel, step_t, 1)), tail(tails, channel, step_t, 2))
    scale = tail(tails, channel, step_t, 0)
    t = within / scale
    u = tl.abs(t) if FORM == 1 else t
    num = t * 0.0
    slope_num = t * 0.0
    for i in tl.static_range(P - 1, -1, -1):
        slope_num = slope_num * t + num
        num = num * t + tl.load(a + channel * step_a + i)
    den = t * 0.0
    slope_den = t * 0.0
    for j in tl.static_range(Q - 1, -1, -1):
        slope_den = slope_den * u + den
        weight = tl.load(b + channel * step_b + j)
        den = den * u + (tl.abs(weight) if FORM == 1 else weight)
    if FORM != 3:
        slope_den = slope_den * u + den
        den = den * u
    flip = t * 0.0 + 1.0
    if FORM == 1:
        flip = tl.where(t > 0, 1.0, tl.where(t < 0, -1.0, 0.0))
    if FORM >= 2:
        flip = tl.where(den > 0, 1.0, tl.where(den < 0, -1.0, 0.0))
        den = tl.abs(den)
    inverse = 1.0 / ((0.1 if FORM == 3 else 1.0) + den)
    value = num * inverse
    if BACKWARD:
        up = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
        inner = up * inverse
        slope = inner * (slope_num - value * flip * slope_den) / scale
        outside = up * tl.where(v < within, slope_low, slope_high)
        tl.store(y + at, tl.where(v == within, slope, outside).to(y.dtype.element_ty), mask=mask)
        to, inside, size = sums(partial, rows, columns, PLANAR, ROWS, COLUMNS)
        power = inner
        for _ in tl.static_range(P):
            tl.store(to, tl.sum(power, 1 if PLANAR else 0), mask=inside)
            to += size
            power *= t
        power = -inner * value
        if FORM >= 2:
            power *= flip
        if FORM != 3:
            power *= u
        for j in tl.static_range(Q):
            signed = power
            if FORM == 1:
                weight = tl.load(b + channel * step_b + j)
                signed = power * tl.where(weight > 0, 1.0, tl.where(weight < 0, -1.0, 0.0))
            tl.store(to, tl.sum(signed, 1 if PLANAR else 0), mask=inside)
            to += size
            power *= u
    else:
        tl.store(y + at, (value + straight(v, within, slope_low, slope_high)).to(y.dtype.element_ty), mask=mask)


def _run(args: Sequence[Any], grad: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return y, or grad_x and the sums of the coefficients' gradients, (coefficients, channels)."""
    x, cut = tiles(args[0], args[5], 1024)
    p, q = args[1].shape[-1], args[2].shape[-1]
    (a, sa), (b, sb), (t, st) = flat(args[1], p), flat(args[2], q), flat(args[3], 5)
    y = torch.empty_like(x)
    partial = y if grad is None else cut.partials(p + q, x.device)
    g = x if grad is None else like(x, grad)
    _pau[cut.grid](
        x, g, y, partial, a, b, t, sa, sb, st, cut.rows, cut.columns, cut.channels,
        P=p, Q=q, FORM=_FORMS[args[4]], PLANAR=cut.planar, BACKWARD=grad is not None,
        ROWS=cut.row_block, COLUMNS=cut.column_block,
    )  # fmt: skip
    return like(torch.empty_like(args[0]), y), y if grad is None else cut.total(partial)


def _backward(grad: Tensor, args: Sequence[Any], needs: Sequence[bool]) -> list[Tensor | None]:
    dx, total = _run(args, grad)
    p = args[1].shape[-1]
    da = per_parameter(total[:p].t(), args[1]) if needs[1] else None
    db = per_parameter(total[p:].t(), args[2]) if needs[2] else None
    return [dx if needs[0] else None, da, db, None]


KERNELS: Mapping[str, Kernel] = {"pau": kernel(lambda args: _run(args, None)[0], _backward, no_tails_gradient)}
