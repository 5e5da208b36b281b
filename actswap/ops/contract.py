"""What a kernel offers to an operator: `Kernel`, and the `FastPath` that some kernels have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor


class FastPath(Protocol):
    """A fast path to a kernel for plain calls: no modes, tracing, transforms, subclasses, odd layouts.

    `fast_path(*args)` returns y, None if the call is not plain, or False if it is plain but needs a gradient.
    `forward` and `backward` do what a Kernel's do without checking the modes; None if a tensor is not plain.
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
        refuses: `refuses(args)` says in words why this call does not fit, "" if it does.
        forward: `forward(args) -> (y, aux)`; aux is a small tensor that saves work in backward, or None.
        backward: `backward(grad, args, aux, needs) -> gradients`, one per tensor argument, None where
            not needed.
        fast_path: the fast path, if there is one.
    """

    backend: str
    refuses: Callable[[Sequence[Any]], str]
    forward: Callable[[Sequence[Any]], tuple[Tensor, Tensor | None]]
    backward: Callable[[Tensor, Sequence[Any], Tensor | None, Sequence[bool]], list[Tensor | None]]
    fast_path: FastPath | None = None
