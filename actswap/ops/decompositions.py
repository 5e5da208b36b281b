"""An operator as aten operators: its formula without the limits at infinity.

At infinite x a formula computes its limit, which takes comparisons and choices that no finite x needs. Runtimes are
faster without them, and some converters do not know them (Core ML has no `isinf`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch._decomp import register_decomposition

_FINITE = ContextVar("actswap.finite", default=False)
Formula = Callable[..., Tensor]


def is_finite_assumed() -> bool:
    """Return whether formulas may take x as finite."""
    return _FINITE.get()


@contextmanager
def finite_assumed() -> Iterator[None]:
    """Let formulas of this thread take x as finite.

    >>> with finite_assumed():
    ...     is_finite_assumed()
    True
    >>> is_finite_assumed()
    False
    """
    before = _FINITE.set(True)
    try:
        yield
    finally:
        _FINITE.reset(before)


def by_aten(name: str, reference: Formula) -> Formula:
    """Return a function that computes an operator by aten operators alone, for finite x.

    Args:
        name: of the operator.
        reference: its formula.
    """

    def compute(*args: Any) -> Tensor:
        with finite_assumed():
            return reference(*args)

    compute.__name__ = name
    return compute


def tell_exporters(op: Any, reference: Formula, fake: Formula) -> None:
    """Tell torch how to take the operator apart: `torch.onnx.export` and DTensor do if they do not know it.

    torch.compile and torch.export leave it whole. Fake tensors would prefer the formula to the shape rule when sizes
    are symbolic; with the rule among the meta functions too, they do not.
    """
    register_decomposition(op)(by_aten(op._schema.name, reference))
    register_decomposition(op, type="meta")(fake)
