"""What a kernel offers to an operator, and the choice among kernels for one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from actswap.errors import UsageError
from actswap.ops import switch
from actswap.ops.direct import never


@dataclass(frozen=True)
class Kernel:
    """One implementation of an operator.

    Attributes:
        backend: `native` or `triton`.
        refuses: `refuses(args)` says in words why this call does not fit, "" where it does.
        forward: `forward(args) -> (y, aux)`; aux is a small tensor that saves work in backward, or None.
        backward: `backward(grad, args, aux, needs) -> gradients`, one per tensor argument, None where
            not needed.
        direct: `direct(*args)` computes a plain call at once. None: it is not plain (modes, tracing, transforms,
            subclasses, layouts), nothing was done. False: it is plain, and a gradient is wanted.
    """

    backend: str
    refuses: Callable[[Sequence[Any]], str]
    forward: Callable[[Sequence[Any]], tuple[Tensor, Tensor | None]]
    backward: Callable[[Tensor, Sequence[Any], Tensor | None, Sequence[bool]], list[Tensor | None]]
    direct: Callable[..., Tensor | bool | None] | None = None


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


def direct(name: str) -> Callable[..., Tensor | bool | None]:
    """Return the direct call of an operator's CPU kernel; without one, a function that finds no call plain."""
    kernel = _native().get(name)
    return never if kernel is None or kernel.direct is None else kernel.direct


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
        return "the native library has no kernel for it, or was not built (python -m actswap.ops.build)"
    return "there is no Triton kernel for it, or triton is not installed"
