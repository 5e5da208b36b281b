"""What a kernel offers to an operator, and the choice among kernels for one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from actswap.errors import UsageError
from actswap.ops import switch
from actswap.ops.how_to_build import advice


class Direct(Protocol):
    """A short way to a kernel for plain calls: no modes, tracing, transforms, subclasses, odd layouts.

    `direct(*args)` is y; None where the call is not plain, and False where it is but a gradient is wanted. The
    other two do what a Kernel's do without a look at the modes, and return None where the tensors are not plain.
    """

    def __call__(self, *args: Any) -> Tensor | Literal[False] | None:
        """Compute y with a look at everything that could make the call not plain."""

    def forward(self, *args: Any) -> tuple[Tensor, Tensor | None] | None:
        """Compute (y, aux)."""

    def backward(
        self, grad: Tensor, args: tuple[Any, ...], aux: Tensor | None, needs: list[bool]
    ) -> list[Tensor | None] | None:
        """Compute one gradient per tensor argument."""


@dataclass(frozen=True)
class Kernel:
    """One implementation of an operator.

    Attributes:
        backend: `native` or `triton`.
        refuses: `refuses(args)` says in words why this call does not fit, "" where it does.
        forward: `forward(args) -> (y, aux)`; aux is a small tensor that saves work in backward, or None.
        backward: `backward(grad, args, aux, needs) -> gradients`, one per tensor argument, None where
            not needed.
        direct: the short way, where there is one.
    """

    backend: str
    refuses: Callable[[Sequence[Any]], str]
    forward: Callable[[Sequence[Any]], tuple[Tensor, Tensor | None]]
    backward: Callable[[Tensor, Sequence[Any], Tensor | None, Sequence[bool]], list[Tensor | None]]
    direct: Direct | None = None


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


def direct(name: str) -> Direct | None:
    """Return the short way to an operator's CPU kernel, None where there is none."""
    kernel = _native().get(name)
    return None if kernel is None else kernel.direct


def forward(name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor | None] | None:
    """Compute (y, aux) by the kernel that fits, None where the formula must do it."""
    if switch._current == "auto" and (short := direct(name)) is not None and (found := short.forward(*args)):
        return found
    kernel = choose(name, args)
    return None if kernel is None else kernel.forward(args)


def backward(
    name: str, grad: Tensor, args: tuple[Any, ...], aux: Tensor | None, needs: list[bool]
) -> list[Tensor | None] | None:
    """Compute one gradient per tensor argument by the kernel that fits, None where the formula must do it."""
    if switch._current == "auto" and (short := direct(name)) and (found := short.backward(grad, args, aux, needs)):
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
