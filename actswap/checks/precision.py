"""Half precision: what a network computes is measured in float32, and what its precision costs is its noise.

A network in float16 or bfloat16 differs from itself in float32 (same weights, same inputs) by its own rounding, often
by a percent of what the outputs vary by. Two right networks differ by as much, so no fixed tolerance tells a right one
from a wrong one there. So the functions are compared in float32, to the tolerance that was asked for. In their own
precision a network must only be as near to the float32 result as its reference is, times `NOISE_FACTOR`.

Convert, verify and export use this one rule; `limit` is the rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actswap.checks.check import Check
from actswap.checks.parity import compare, run
from actswap.checks.signal import Signal

LOW = (torch.float16, torch.bfloat16)
NOISE_FACTOR = 4  # two right results are each one noise away; other kernels round at other places
MOST = 0.25  # of the signal: a larger limit tells nothing, and the result counts as not proved
OWN = "own precision"
AS_FLOAT32 = "--dtype float32 (in Python: model.float())"


def low_precision(model: nn.Module) -> torch.dtype | None:
    """Return the half precision of a network's weights, None if there is none.

    >>> low_precision(nn.Linear(2, 2).half()), low_precision(nn.Linear(2, 2))
    (torch.float16, None)
    """
    tensors = (*model.parameters(), *model.buffers())
    return next((t.dtype for t in tensors if t.dtype in LOW), None)


def limit(tolerance: float, noise: float, eps: float) -> float:
    """Return the largest error of a right result in a precision, relative to how much the float32 result varies.

    Args:
        tolerance: what the two functions may differ by.
        noise: the error of the reference in that precision.
        eps: the relative rounding error of that precision; one rounding of the output is always allowed.
    """
    return max(tolerance, NOISE_FACTOR * noise + eps)


def as_float32(value: Any) -> Any:
    """Return inputs with their half-precision tensors in float32; everything else stays."""
    return pytree.tree_map(lambda v: v.float() if isinstance(v, Tensor) and v.dtype in LOW else v, value)


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Return inputs with their float32 tensors in another precision."""
    return pytree.tree_map(lambda v: v.to(dtype) if isinstance(v, Tensor) and v.dtype is torch.float32 else v, value)


@contextmanager
def raised(model: nn.Module) -> Iterator[None]:
    """Give a network's half-precision weights in float32 inside the block; the same bits are back after it.

    A weight that the block adds stays in the precision that it was added in.
    """
    yield from _changed(model, LOW, torch.float32)


@contextmanager
def lowered(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Give a network's float32 weights in half precision inside the block; the same bits are back after it."""
    yield from _changed(model, (torch.float32,), dtype)


def _changed(model: nn.Module, dtypes: Sequence[torch.dtype], to: torch.dtype) -> Iterator[None]:
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers()) if t.dtype in dtypes and not t.is_meta}
    kept = [(t, t.data, t.grad) for t in tensors.values()]
    made: dict[tuple[int, Any, Any], Tensor] = {}  # views of one storage stay so if they are the same view
    try:
        for t, data, grad in kept:
            if grad is not None:
                t.grad = None
            key = (data.data_ptr(), data.shape, data.stride())
            t.data = made.setdefault(key, data.to(to)) if data.numel() else data.to(to)
        yield
    finally:
        for t, data, grad in kept:
            t.grad = None
            t.data = data
            if grad is not None:
                t.grad = grad


def runs_in_float32(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor] | None:
    """Return the outputs of a network in float32; None if it does not run so, as with a precision in its own code."""
    try:
        with raised(model):
            return run(model, as_float32(args), as_float32(dict(kwargs)))
    except Exception:  # the user's code may ask for half precision in any way
        return None


def noise_in(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dtype: torch.dtype,
    expected: Sequence[Tensor],
    signals: Sequence[Signal],
) -> float:
    """Return how far a network in half precision is from itself in float32; 0 if it does not run there.

    Args:
        model: the network, in float32 or in that precision.
        args: positional inputs.
        kwargs: keyword inputs.
        dtype: the precision.
        expected: its outputs in float32.
        signals: how they vary.
    """
    try:
        with lowered(model, dtype):
            outputs = run(model, in_dtype(args, dtype), in_dtype(dict(kwargs), dtype))
    except Exception:  # the CPU lacks some operations in half precision
        return 0.0
    return compare(expected, outputs, signals).rel


def own_precision(
    expected: Sequence[Tensor],
    reference: Sequence[Tensor],
    found: Sequence[Tensor],
    signals: Sequence[Signal],
    tolerance: float,
) -> Check:
    """Check a result in half precision against the one in float32: it must be as near as the reference is.

    Args:
        expected: outputs of the reference in float32.
        reference: its outputs in its own precision.
        found: outputs of the other network in that precision.
        signals: how the outputs in float32 vary.
        tolerance: what the two functions may differ by.
    """
    noise, error = (compare(expected, outputs, signals).rel for outputs in (reference, found))
    dtype = next((t.dtype for t in reference if t.dtype in LOW), torch.float32)
    name = str(dtype).removeprefix("torch.")
    most = limit(tolerance, noise, torch.finfo(dtype).eps)
    said = f"in {name} it is {error:.2g} from float32, the original {noise:.2g}"
    if not noise < float("inf"):
        return Check(OWN, None, f"not proved: in {name} the original overflows; try {AS_FLOAT32}")
    if error <= most > MOST:
        return Check(OWN, None, f"not proved: {said}, which is too far to tell; try {AS_FLOAT32}", error, most)
    if error <= most:
        return Check(OWN, True, said, error, most)
    return Check(OWN, False, f"{said}; {AS_FLOAT32} is exact", error, most)
