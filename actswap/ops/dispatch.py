"""Choose the kernel for one call of an operator, and run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from actswap.errors import UsageError
from actswap.ops import switch
from actswap.ops.contract import FastPath, Kernel
from actswap.ops.libraries import advice


def choose(name: str, args: Sequence[Any]) -> Kernel | None:
    """Return the kernel for this call, None for the formula.

    Raises:
        UsageError: the backend is `native` or `triton` and that kernel does not fit.
    """
    wanted = switch._current
    if wanted == "reference":
        return None
    x = args[0]
    if wanted == "native" or (wanted == "auto" and x.is_cpu):
        kernel = _native().get(name)
    elif wanted == "triton" or x.is_cuda:
        kernel = _triton().get(name)
    else:
        return None
    why = kernel.refuses(args) if kernel is not None else _absent(wanted)
    if not why:
        return kernel
    if wanted == "auto":
        return None
    raise UsageError(f"actswap::{name} by backend {wanted!r}", why=why, fix='actswap.ops.backend("auto")')


def fast_path(name: str) -> FastPath | None:
    """Return the fast path to an operator's CPU kernel, None if there is none."""
    kernel = _native().get(name)
    return None if kernel is None else kernel.fast_path


def forward(name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor | None] | None:
    """Compute (y, aux) by the kernel that fits; None if the formula must do it."""
    if switch._current == "auto" and (short := fast_path(name)) is not None and (found := short.forward(*args)):
        return found
    kernel = choose(name, args)
    return None if kernel is None else kernel.forward(args)


def backward(
    name: str, grad: Tensor, args: tuple[Any, ...], aux: Tensor | None, needs: list[bool]
) -> list[Tensor | None] | None:
    """Compute one gradient per tensor argument by the kernel that fits; None if the formula must do it."""
    if switch._current == "auto" and (short := fast_path(name)) and (found := short.backward(grad, args, aux, needs)):
        return found
    kernel = choose(name, args)
    return None if kernel is None else kernel.backward(grad, args, aux, needs)


_tables: dict[str, Mapping[str, Kernel]] = {}


def _native() -> Mapping[str, Kernel]:
    if "native" not in _tables:
        try:
            from actswap.ops.native import KERNELS
        except ImportError:
            KERNELS = {}
        _tables["native"] = KERNELS
    return _tables["native"]


def _triton() -> Mapping[str, Kernel]:
    if "triton" not in _tables:
        try:
            from actswap.ops.triton import KERNELS
        except ImportError:
            KERNELS = {}
        _tables["triton"] = KERNELS
    return _tables["triton"]


def _absent(wanted: str) -> str:
    if wanted == "native":
        return f"the native library has no kernel for it, or was not built ({advice()})"
    return "there is no Triton kernel for it, or triton is not installed"
