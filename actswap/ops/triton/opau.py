"""OPAU in Triton: any degrees, all bases, both denominators, with tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
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


@triton.jit  # type: ignore[untyped-decorator]
def _opau(  # type: ignore[no-untyped-def]
    x, g, y, partial, numerator, denominator, tails, table, step_c, step_d, step_t, rows, columns, channels,
    P: tl.constexpr, Q: tl.constexpr, TOP: tl.constexpr, SAFE: tl.constexpr,
    PLANAR: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    at, mask, channel = cells(rows, columns, channels, PLANAR, ROWS, COLUMNS)
    slope_low, slope_high = tail(tails, channel, step_t, 3), tail(tails, channel, step_t, 4)
    v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    within = tl.minimum(tl.maximum(v, tail(tails, channel, step_t, 1)), tail(tails, channel, step_t, 2))
    scale = tail(tails, channel, step_t, 0)
    t = within / scale

    # f, df: polynomial i and its slope; g0, dg the ones before.
    f, df, g0, dg = t * 0.0 + 1.0, t * 0.0, t * 0.0, t * 0.0
    num, slope_num, den, slope_den = t * 0.0, t * 0.0, t * 0.0 + 1.0, t * 0.0
    for i in tl.static_range(TOP + 1):
        if i < P:
            weight = tl.load(numerator + channel * step_c + i)
            num += weight * f
            slope_num += weight * df
        if i > 0 and i <= Q:
            weight = tl.load(denominator + channel * step_d + i - 1)
            if SAFE:
                den += tl.abs(weight) * tl.abs(f)
                slope_den += tl.abs(weight) * tl.where(f > 0, df, tl.where(f < 0, -df, 0.0))
            else:
                den += weight * f
                slope_den += weight * df
        line = tl.load(table + 3 * i) * t + tl.load(table + 3 * i + 1)
        back = tl.load(table + 3 * i + 2)
        following, slope = line * f - back * g0, tl.load(table + 3 * i) * f + line * df - back * dg
        g0, dg, f, df = f, df, following, slope

    inverse = 1.0 / den
    value = num * inverse
    if BACKWARD:
        up = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
        inner = up * inverse
        inside = inner * (slope_num - value * slope_den) / scale
        outside = up * tl.where(v < within, slope_low, slope_high)
        tl.store(y + at, tl.where(v == within, inside, outside).to(y.dtype.element_ty), mask=mask)
        to, there, size = sums(partial, rows, columns, PLANAR, ROWS, COLUMNS)
        f, g0 = t * 0.0 + 1.0, t * 0.0
        for i in tl.static_range(TOP + 1):
            if i < P:
                tl.store(to + i * size, tl.sum(inner * f, 1 if PLANAR else 0), mask=there)
            if i > 0 and i <= Q:
                share = -inner * value * f
                if SAFE:
                    weight = tl.load(denominator + channel * step_d + i - 1)
                    sign = tl.where(weight > 0, 1.0, tl.where(weight < 0, -1.0, 0.0))
                    share = -inner * value * tl.abs(f) * sign
                tl.store(to + (P + i - 1) * size, tl.sum(share, 1 if PLANAR else 0), mask=there)
            line = tl.load(table + 3 * i) * t + tl.load(table + 3 * i + 1)
            following = line * f - tl.load(table + 3 * i + 2) * g0
            g0, f = f, following
    else:
        tl.store(y + at, (value + straight(v, within, slope_low, slope_high)).to(y.dtype.element_ty), mask=mask)


def _recurrence(basis: str, n: int) -> tuple[float, float, float]:
    """(a, b, c) of f_{n+1} = (a t + b) f_n - c f_{n-1}."""
    return {
        "chebyshev_t": (2.0 if n else 1.0, 0.0, 1.0),
        "chebyshev_u": (2.0, 0.0, 1.0),
        "legendre": ((2 * n + 1) / (n + 1), 0.0, n / (n + 1)),
        "laguerre": (-1 / (n + 1), (2 * n + 1) / (n + 1), n / (n + 1)),
        "hermite_prob": (1.0, 0.0, float(n)),
        "hermite_phys": (2.0, 0.0, 2.0 * n),
    }[basis]


@cache
def _table(basis: str, degree: int, device: torch.device) -> Tensor:
    return torch.tensor([_recurrence(basis, n) for n in range(degree + 1)], dtype=torch.float32, device=device)


def _run(args: Sequence[Any], grad: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return y, or grad_x and the sums of the coefficients' gradients, (coefficients, channels)."""
    x, cut = tiles(args[0], args[6], 1024)
    p, q = args[1].shape[-1], args[2].shape[-1]
    top = max(p - 1, q)
    (c, sc), (d, sd), (t, st) = flat(args[1], p), flat(args[2], q), flat(args[3], 5)
    y = torch.empty_like(x)
    partial = y if grad is None else cut.partials(p + q, x.device)
    g = x if grad is None else like(x, grad)
    _opau[cut.grid](
        x, g, y, partial, c, d, t, _table(args[4], top, x.device), sc, sd, st, cut.rows, cut.columns, cut.channels,
        P=p, Q=q, TOP=top, SAFE=args[5], PLANAR=cut.planar, BACKWARD=grad is not None,
        ROWS=cut.row_block, COLUMNS=cut.column_block,
    )  # fmt: skip
    return like(torch.empty_like(args[0]), y), y if grad is None else cut.total(partial)


def _backward(grad: Tensor, args: Sequence[Any], needs: Sequence[bool]) -> list[Tensor | None]:
    dx, total = _run(args, grad)
    p = args[1].shape[-1]
    dc = per_parameter(total[:p].t(), args[1]) if needs[1] else None
    dd = per_parameter(total[p:].t(), args[2]) if needs[2] else None
    return [dx if needs[0] else None, dc, dd, None]


KERNELS: Mapping[str, Kernel] = {"opau": kernel(lambda args: _run(args, None)[0], _backward, no_tails_gradient)}
