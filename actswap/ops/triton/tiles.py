"""A tensor as a matrix of tiles: planes by positions, or rows by channels. What the kernels over such tiles share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from actswap.ops.contract import Kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit  # type: ignore[untyped-decorator]
def cells(rows, columns, channels, PLANAR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Offsets of a program's elements, which of them exist, and their channels."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return r.to(tl.int64) * columns + c, (r < rows) & (c < columns), (r % channels) if PLANAR else (c % channels)


@triton.jit  # type: ignore[untyped-decorator]
def sums(partial, rows, columns, PLANAR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where a program's first sums go, which of these places exist, and how far it is to the next ones."""
    if PLANAR:
        line = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        known = line < rows
        to = partial + tl.program_id(1).to(tl.int64) * rows + line
        size = tl.num_programs(1).to(tl.int64) * rows
    else:
        line = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        known = line < columns
        to = partial + tl.program_id(0).to(tl.int64) * columns + line
        size = tl.num_programs(0).to(tl.int64) * columns
    return to, known, size


@triton.jit  # type: ignore[untyped-decorator]
def tail(tails, channel, step, k: tl.constexpr):  # type: ignore[no-untyped-def]
    """Number k of s, lo, hi, slope_lo, slope_hi."""
    return tl.load(tails + channel * step + k)


@triton.jit
def straight(v, within, slope_low, slope_high):  # type: ignore[no-untyped-def]
    """What the lines beyond the range add to the value; 0 if a line is flat, even for an infinite v."""
    beyond = v - within
    slope = tl.where(beyond < 0, slope_low, slope_high)
    return tl.where((slope == 0) | (beyond == 0), 0.0, slope * beyond)


class Tiles(NamedTuple):
    """The matrix (rows, columns), which axis the channels are on, and the tile's extents."""

    rows: int
    columns: int
    channels: int
    planar: bool
    row_block: int
    column_block: int

    @property
    def grid(self) -> tuple[int, int]:
        """Programs along rows and columns."""
        return triton.cdiv(self.rows, self.row_block), triton.cdiv(self.columns, self.column_block)

    def partials(self, count: int, device: torch.device) -> Tensor:
        """Buffer for `count` sums per program: (count, programs, rows) for planes, (count, programs, columns) else."""
        rows, columns = self.grid
        shape = (count, columns, self.rows) if self.planar else (count, rows, self.columns)
        return torch.empty(shape, dtype=torch.float32, device=device)

    def total(self, partials: Tensor) -> Tensor:
        """Add up what `partials` was filled with: (count, channels) in float64."""
        if self.planar:
            partials = partials.reshape(partials.shape[0], -1, self.channels)
        return partials.sum(1, dtype=torch.float64)


def tiles(x: Tensor, dim: int, elements: int = 2048) -> tuple[Tensor, Tiles]:
    """Return x, or a dense copy, and how it is cut.

    Args:
        x: the input.
        dim: the channel axis.
        elements: elements of one tile.
    """
    dim %= x.dim()
    rows_last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    channels = x.shape[dim]
    if dim == 1 and x.dim() in (4, 5) and x.is_contiguous(memory_format=rows_last) and not x.is_contiguous():
        rows, columns, planar = x.numel() // channels, channels, False
    else:
        x = x.contiguous()
        inner = prod(x.shape[dim + 1 :])
        planar = inner > 1
        columns = inner if planar else channels
        rows = x.numel() // columns
    column_block = min(triton.next_power_of_2(columns), elements if planar else 128)
    return x, Tiles(rows, columns, channels, planar, max(1, elements // column_block), column_block)


def like(x: Tensor, grad: Tensor) -> Tensor:
    """Return grad in the layout and dtype of x."""
    if grad.stride() == x.stride() and grad.dtype == x.dtype:
        return grad
    return torch.empty_like(x).copy_(grad)


def flat(parameter: Tensor, width: int = 1) -> tuple[Tensor, int]:
    """Return a parameter as float32 and the step from channel to channel, 0 if it is shared."""
    p = parameter.detach().to(torch.float32).contiguous()
    return p, 0 if p.numel() == width else width


def per_parameter(total: Tensor, parameter: Tensor) -> Tensor:
    """Bring (channels, width) gradients to the shape and dtype of a parameter that may be shared."""
    if parameter.numel() == total.shape[1]:
        total = total.sum(0)
    return total.reshape(parameter.shape).to(parameter.dtype)


def refusal(args: Sequence[Any]) -> str:
    """Say why no kernel takes this input, "" if they do."""
    if args[0].dtype not in DTYPES:
        return f"the kernels compute float32, bfloat16 and float16, not {args[0].dtype}"
    if args[0].numel() == 0 or args[0].dim() == 0:
        return "the input is empty or has no axis"
    return ""


def no_tails_gradient(args: Sequence[Any]) -> str:
    """Object to tails that want a gradient: the kernels of PAU and OPAU give none."""
    return "the kernels give no gradient of the tails" if args[3].requires_grad else ""


def kernel(
    forward: Callable[[Sequence[Any]], Tensor],
    backward: Callable[[Tensor, Sequence[Any], Sequence[bool]], list[Tensor | None]],
    objection: Callable[[Sequence[Any]], str],
) -> Kernel:
    """Wrap two functions as the kernel of an operator."""
    return Kernel(
        "triton",
        lambda args: refusal(args) or objection(args),
        lambda args: (forward(args), None),
        lambda grad, args, aux, needs: backward(grad, args, needs),
    )
