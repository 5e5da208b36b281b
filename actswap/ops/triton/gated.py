"""meta-ACON and DY-ReLU in Triton: coefficients of each sample and channel, computed from its mean.

Forward: the means, a small branch in PyTorch that makes the coefficients, one pass over x. Backward: one pass for the
coefficients' gradients, the branch differentiated by autograd, one pass for the input's gradient, which takes in what
comes back through the means. Sums are partial per program and added up in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from actswap.ops.contract import Kernel
from actswap.ops.triton.attention import with_attention
from actswap.ops.triton.tiles import Tiles, like, refusal, sums, tiles

_FORWARD, _SUMS, _GRADIENT = range(3)
_META, _LINES = range(2)
Branch = Callable[..., Tensor]


@triton.jit  # type: ignore[untyped-decorator]
def _gated(  # type: ignore[no-untyped-def]
    x, g, y, partial, coefficients, pull, rows, columns, channels, span,
    OP: tl.constexpr, K: tl.constexpr, MODE: tl.constexpr,
    PLANAR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    # span: rows of one sample
    if PLANAR:  # a row is a plane
        r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
        mask = (r < rows) & (c < columns)
        sample, channel = r // span, r % channels
    else:  # a row is a position; the rows of a program are one sample's
        blocks = (span + ROWS - 1) // ROWS
        inside = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)[:, None]
        mask = (inside < span) & (c < columns)
        sample, channel = tl.program_id(0) // blocks, c
        r = sample * span + inside
    known = (r < rows) if PLANAR else (c < columns)
    at = r.to(tl.int64) * columns + c
    from_here = coefficients + sample * (2 * K if OP == 1 else 3) * channels + channel
    v = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if MODE > 0:
        u = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
    to, there, size = sums(partial, rows, columns, PLANAR, ROWS, COLUMNS)

    if OP == 0:  # meta-ACON; coefficients p1, p2, beta
        b = tl.load(from_here + channels, mask=known, other=0.0)
        d = tl.load(from_here, mask=known, other=0.0) - b
        bd = tl.load(from_here + 2 * channels, mask=known, other=0.0) * d
        e = tl.exp(-tl.abs(bd * v))
        q = 1.0 / (1.0 + e)
        s = tl.where(bd * v < 0, e * q, q)
        if MODE == 0:
            slope = d * s + b
            out = tl.where(slope == 0, 0.0, v * slope)
        else:
            w = v * e * q * q
            t = s + bd * w
            out = u * (d * t + b)
        if MODE == 1:
            tl.store(to, tl.sum(u * v * t, 1 if PLANAR else 0), mask=there)
            tl.store(to + size, tl.sum(u * v * (1 - t), 1 if PLANAR else 0), mask=there)
            tl.store(to + 2 * size, tl.sum(u * v * w * d * d, 1 if PLANAR else 0), mask=there)
    else:  # lines; coefficients a_1 .. a_K, b_1 .. b_K
        out = v * 0.0
        top = out
        for j in tl.static_range(K):
            a = tl.load(from_here + j * channels, mask=known, other=0.0)
            here = a * v + tl.load(from_here + (K + j) * channels, mask=known, other=0.0)
            # The share of line j in the maximum: halved at every tie, as the formula's chain of maxima does.
            share = v * 0.0 + 1.0
            for k in tl.static_range(K):
                other = tl.load(from_here + k * channels, mask=known, other=0.0) * v
                other += tl.load(from_here + (K + k) * channels, mask=known, other=0.0)
                if k < j:
                    top = other if k == 0 else tl.maximum(top, other)
                if k == j and j > 0:
                    share = tl.where(here > top, 1.0, tl.where(here == top, 0.5, 0.0))
                if k == j:
                    top = here if j == 0 else tl.maximum(top, here)
                if k > j:
                    share = tl.where(other > top, 0.0, tl.where(other == top, 0.5 * share, share))
                    top = tl.maximum(top, other)
            if MODE == 0:
                out = top
            if MODE == 1:
                tl.store(to + j * size, tl.sum(u * share * v, 1 if PLANAR else 0), mask=there)
                tl.store(to + (K + j) * size, tl.sum(u * share, 1 if PLANAR else 0), mask=there)
            if MODE == 2:
                out += u * share * a
    if MODE == 2:
        out += tl.load(pull + sample * channels + channel, mask=known, other=0.0)
    if MODE != 1:
        tl.store(y + at, out.to(y.dtype.element_ty), mask=mask)


def _pool(x: Tensor, dim: int) -> Tensor:
    """Mean over positions, (N, C) in float32."""
    axes = [axis for axis in range(1, x.dim()) if axis != dim % x.dim()]
    return x.detach().mean(axes, dtype=torch.float32) if axes else x.detach().float()


def _meta_branch(m: Tensor, p1: Tensor, p2: Tensor, scale: Tensor, *layers: Tensor) -> Tensor:
    w1, b1, w2, b2 = layers
    m = m.mean(1, keepdim=True) if w1.shape[1] == 1 else m
    beta = scale * torch.sigmoid(torch.addmm(b2, torch.addmm(b1, m, w1.t()), w2.t()))
    return torch.stack([p.expand(beta.shape[0], -1) for p in _even(p1.reshape(1, -1), p2.reshape(1, -1), beta)], 1)


def _even(*rows: Tensor) -> tuple[Tensor, ...]:
    width = max(row.shape[1] for row in rows)
    return tuple(row.expand(-1, width) for row in rows)


def _lines_branch(m: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, init: Tensor, lambdas: Tensor) -> Tensor:
    m = m.mean(1, keepdim=True) if w1.shape[1] == 1 else m
    z = torch.addmm(b2, torch.relu(torch.addmm(b1, m, w1.t())), w2.t())
    rows = lambdas.numel()
    return init + lambdas.reshape(rows, 1) * (2 * torch.sigmoid(z) - 1).reshape(m.shape[0], rows, -1)


def _operator(op: int, branch: Branch, tensors: int, pieces: Callable[[Sequence[Any]], int]) -> Kernel:
    """Build the kernel of an operator: x, the branch's tensors, dim."""

    def coefficients(args: Sequence[Any], leaves: Sequence[Tensor]) -> Tensor:
        found = branch(*leaves)
        return found.expand(-1, -1, args[0].shape[args[-1]])

    def leaves(args: Sequence[Any], means: Tensor) -> list[Tensor]:
        return [means, *(a.detach().float() for a in args[1:tensors])]

    def launch(cut: Tiles, mode: int, args: Sequence[Any], of: Sequence[Tensor]) -> None:
        samples = args[0].shape[0]
        span = cut.rows // samples
        grid = cut.grid if cut.planar else (samples * triton.cdiv(span, cut.row_block), cut.grid[1])
        _gated[grid](
            *of, cut.rows, cut.columns, cut.channels, span,
            OP=op, K=pieces(args), MODE=mode, PLANAR=cut.planar, ROWS=cut.row_block, COLUMNS=cut.column_block,
        )  # fmt: skip

    @torch.no_grad()
    def forward(args: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
        x, cut = tiles(args[0], args[-1])
        means, y = _pool(args[0], args[-1]), torch.empty_like(x)
        with torch.autocast(x.device.type, enabled=False):
            coef = coefficients(args, leaves(args, means)).contiguous()
        launch(cut, _FORWARD, args, (x, x, y, coef, coef, coef))
        return like(torch.empty_like(args[0]), y), means

    def backward(grad: Tensor, args: Sequence[Any], aux: Tensor | None, needs: Sequence[bool]) -> list[Tensor | None]:
        x, cut = tiles(args[0], args[-1])
        g = like(x, grad)
        samples, channels = x.shape[0], cut.channels
        held = leaves(args, _pool(x, args[-1]) if aux is None else aux.detach())
        wanted = [leaf.requires_grad_() for leaf, need in zip(held, needs, strict=True) if need]
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            differentiable = coefficients(args, held)
        coef = differentiable.detach().contiguous()
        # (coefficient, programs of a row, sample, programs or planes of a sample, channel)
        if cut.planar:
            shape = (coef.shape[1], cut.grid[1], samples, cut.rows // (samples * channels), channels)
        else:
            shape = (coef.shape[1], 1, samples, triton.cdiv(cut.rows // samples, cut.row_block), channels)
        partial = torch.empty(shape, dtype=torch.float32, device=x.device)
        launch(cut, _SUMS, args, (x, g, x, partial, coef, coef))
        total = partial.sum((1, 3), dtype=torch.float64).float().transpose(0, 1)
        # Only what feeds the coefficients can be asked for; allow_unused covers a frozen way in between.
        found = iter(torch.autograd.grad(differentiable, wanted, total, allow_unused=True) if wanted else ())
        gradients = [next(found) if need else None for need in needs]
        if needs[0]:
            pull = gradients[0]
            positions = x.numel() // (samples * channels)
            pull = torch.zeros_like(held[0]) if pull is None else (pull / positions).contiguous()
            dx = torch.empty_like(x)
            launch(cut, _GRADIENT, args, (x, g, dx, dx, coef, pull))
            gradients[0] = like(torch.empty_like(args[0]), dx)
        return [None if d is None else d.to(args[i].dtype) for i, d in enumerate(gradients)]

    def refuses(args: Sequence[Any]) -> str:
        if args[0].dim() < 2 or args[-1] % args[0].dim() == 0:
            return "axis 0 is the samples"
        return refusal(args)

    return Kernel("triton", refuses, forward, backward)


_lines = _operator(_LINES, _lines_branch, 7, lambda args: args[6].numel() // 2)
KERNELS: Mapping[str, Kernel] = {
    "meta_acon": _operator(_META, _meta_branch, 8, lambda args: 1),
    "dy_relu": _lines,
    "dy_relu_c": with_attention(_lines),
}
