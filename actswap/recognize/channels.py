"""Which axis of a tensor is the channel axis: read off the dataflow, never guessed from the rank.

From the activation's input the walk goes back to the layer that made it (convolution and batch norm: behind the batch;
linear and layer norm: last), through every permute, reshape, cat and slice on the way. If that finds nothing, it goes
forward to the layer that reads the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from actswap.capture.tape import Op, Ref, Tape

_DEPTH = 64
_LAST = frozenset(("linear", "embedding", "multi_head_attention_forward", "rms_norm", "addmm", "bilinear"))
_FRONT = frozenset(("batch_norm", "group_norm", "instance_norm", "local_response_norm", "pixel_shuffle"))


class ChannelFinder:
    """Answers `axis(value)` for one tape."""

    def __init__(self, tape: Tape) -> None:
        self.values = tape.values
        self.producers = tape.producers()
        self.consumers = tape.consumers()
        self._back: dict[int, int | None] = {}
        self._witness: dict[int, Op] = {}

    def axis(self, value: int) -> int | None:
        """Return the channel axis of a value counted from the front, or None if there is no clear one."""
        back = self.back(value, 0)
        return self.forward(value, 0, frozenset()) if back is None else back

    def witness(self, value: int) -> tuple[Op, bool] | None:
        """Return the layer that tells the axis of a value, and whether it made the value (else it reads it)."""
        made = self.back(value, 0) is not None
        if not made and self.forward(value, 0, frozenset()) is None:
            return None
        return (self._witness[value], made) if value in self._witness else None

    def rank(self, value: int) -> int:
        """Number of dimensions."""
        return len(self.values[value].shape)

    def back(self, value: int, depth: int) -> int | None:
        """Walk towards the layer that made the value."""
        if value in self._back or depth > _DEPTH:
            return self._back.get(value)
        op = self.producers.get(value)
        axis = None if op is None else self._of_output(op, value, depth)
        self._back[value] = axis
        return axis

    def _of_output(self, op: Op, out: int, depth: int) -> int | None:
        made = _layer_axis(op, self.rank(out))
        if made is not None:
            self._witness[out] = op
            return made
        if op.name in ("matmul", "bmm", "einsum", "scaled_dot_product_attention"):
            return self.rank(out) - 1 if op.name == "matmul" and self._has_weight(op) else None
        for source in op.refs():
            if self.values[source].constant is not None or not self.values[source].floating:
                continue
            if op.name not in _SHAPE_OPS and self.rank(source) != self.rank(out):
                continue
            axis = self.back(source, depth + 1)
            if axis is not None:
                self._witness[out] = self._witness.get(source, op)
                return _through(op, axis, self.values[source].shape, self.values[out].shape)
        return None

    def forward(self, value: int, depth: int, seen: frozenset[int]) -> int | None:
        """Walk towards the layer that reads the value."""
        if depth > 8 or value in seen:
            return None
        shape = self.values[value].shape
        for op in self.consumers.get(value, ()):
            made = _layer_axis(op, len(shape))
            if made is not None and op.name not in ("embedding", "pixel_shuffle"):
                self._witness[value] = op
                return made
            if op.name == "matmul":
                if self._has_weight(op):
                    return len(shape) - 1
                continue
            for out in op.outs:
                after = self.forward(out, depth + 1, seen | {value})
                if after is None:
                    continue
                for axis in range(len(shape)):
                    if _through(op, axis, shape, self.values[out].shape) == after:
                        self._witness[value] = self._witness.get(out, op)
                        return axis
        return None

    def _has_weight(self, op: Op) -> bool:
        refs = list(op.refs())
        return (len(refs) > 1 and self.values[refs[1]].constant is not None) or self.rank(refs[-1]) == 2


def _layer_axis(op: Op, rank: int) -> int | None:
    """Channel axis of a layer's input and output of this rank, None if the op is no layer."""
    name = op.name
    if name.startswith("conv"):
        spatial = next((int(c) for c in name if c.isdigit()), 2)
        return rank - spatial - 1 if rank > spatial else None
    if name in _LAST:
        return rank - 1
    if name in _FRONT:
        return 1 if rank > 1 else None
    if name == "layer_norm":
        shape = op.args.get("normalized_shape")
        return rank - 1 if isinstance(shape, (tuple, list)) and len(shape) == 1 else None
    return None


_SHAPE_OPS = frozenset(
    (
        "permute",
        "transpose",
        "t",
        "movedim",
        "flatten",
        "reshape",
        "view",
        "unflatten",
        "squeeze",
        "unsqueeze",
    )
    + (
        "expand",
        "cat",
        "stack",
        "chunk",
        "split",
        "unbind",
        "getitem",
        "narrow",
        "select",
        "mean",
        "sum",
        "amax",
    )
    + ("view_as", "reshape_as", "repeat", "tile")
)


_REDUCTIONS = frozenset(("mean", "sum", "amax"))


def _through(op: Op, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    """Follow an axis from an input of an op to its output."""
    rank = len(before)
    if op.name == "permute":
        dims = [a for k, a in op.args.items() if k != "input" and k != "0"]
        order = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
        wanted = [int(d) % rank for d in order if isinstance(d, int)]
        return wanted.index(axis) if axis in wanted else None
    if op.name in ("transpose", "t"):
        a, b = (_dim(op.args.get(k, d), rank) for k, d in (("dim0", 0), ("dim1", 1)))
        return b if axis == a else a if axis == b else axis
    if op.name == "movedim":
        source, to = op.args.get("source"), op.args.get("destination")
        if not (isinstance(source, int) and isinstance(to, int)):
            return None
        order = [i for i in range(rank) if i != source % rank]
        order.insert(to % rank, source % rank)
        return order.index(axis)
    if op.name == "stack":
        return axis + (axis >= _dim(op.args.get("dim", 0), rank + 1))
    if op.name == "unsqueeze":
        return axis + (axis >= _dim(op.args.get("dim", 0), rank + 1))
    if op.name in ("unbind", "select"):
        gone = _dim(op.args.get("dim", op.args.get("1", 0)) if op.name == "unbind" else op.args.get("1", 0), rank)
        return None if axis == gone else axis - (axis > gone)
    if op.name == "getitem":
        return _indexed(op.args.get("index"), axis, rank, len(after))
    if op.name in _REDUCTIONS and len(after) < rank:
        dim = op.args.get("dim", op.args.get("1"))
        over = {_dim(d, rank) for d in (dim if isinstance(dim, (tuple, list)) else [dim]) if isinstance(d, int)}
        return None if axis in over or len(over) != rank - len(after) else axis - sum(d < axis for d in over)
    if len(before) == len(after) and op.name not in ("reshape", "view", "reshape_as", "view_as"):
        return axis
    return _reshaped(axis, before, after)


def _dim(value: Any, rank: int) -> int:
    return int(value) % rank if isinstance(value, int) else 0


def _indexed(index: Any, axis: int, rank: int, rank_after: int) -> int | None:
    parts = list(index) if isinstance(index, tuple) and not isinstance(index, Ref) else [index]
    if any(isinstance(p, Ref) for p in parts):
        return axis if rank == rank_after else None
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        named = sum(p is not None for p in parts) - 1
        parts[at : at + 1] = [slice(None)] * (rank - named)
    out = here = 0
    for part in [*parts, *[slice(None)] * rank]:
        if part is None:
            out += 1
            continue
        if here == axis:
            return None if isinstance(part, int) else out
        here += 1
        out += not isinstance(part, int)
    return None


def _reshaped(axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    """The axis of `after` that holds the same elements in the same order, or absorbs them into a feature vector."""
    size, prefix = before[axis], math.prod(before[:axis])
    matches = [i for i, n in enumerate(after) if n == size and math.prod(after[:i]) == prefix]
    if matches:
        return matches[0] if size > 1 or len(matches) == 1 else min(matches, key=lambda i: abs(i - axis))
    if len(after) == 2 and len(before) > 2 and after[0] == before[0]:
        return 1
    return None


def common_width(shapes: Sequence[Sequence[int]], dims: Sequence[int | None]) -> tuple[int | None, int]:
    """Return (channels, channel_dim) over all calls of a site: (None, 1), one set per layer, if they disagree."""
    if not shapes or any(d is None for d in dims):
        return None, 1
    widths = {shape[d] for shape, d in zip(shapes, dims, strict=True) if d is not None}
    signed = {-1 if d == len(s) - 1 and len(s) > 2 else d for s, d in zip(shapes, dims, strict=True)}
    if len(widths) == 1 and len(signed) == 1:
        dim = signed.pop()
        return widths.pop(), 1 if dim is None else dim
    return None, 1
