"""Agreement of outputs: two lists of arrays, compared one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from actswap.onnx.functions import Array


@dataclass(frozen=True)
class OutputParity:
    """How far an output is from its reference.

    Attributes:
        name: output name.
        relative: largest absolute difference divided by the largest absolute value of the reference; 0 if both are 0,
            infinite if shapes or the places of NaN and infinity differ.
        max_abs: largest absolute difference.
    """

    name: str
    relative: float
    max_abs: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def compare(names: Sequence[str], reference: Sequence[Array], got: Sequence[Array]) -> tuple[OutputParity, ...]:
    """Compare outputs pairwise; the lists must be equally long."""
    return tuple(_compare(*each) for each in zip(names, reference, got, strict=True))


def worst(*checks: Sequence[OutputParity]) -> tuple[OutputParity, ...]:
    """For every output, the largest of its differences over several checks."""
    return tuple(
        OutputParity(row[0].name, max(each.relative for each in row), max(each.max_abs for each in row))
        for row in zip(*checks, strict=True)
    )


def _compare(name: str, reference: Array, got: Array) -> OutputParity:
    if reference.shape != got.shape:
        return OutputParity(name, float("inf"), float("inf"))
    if reference.size == 0:
        return OutputParity(name, 0.0, 0.0)
    a, b = reference.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return OutputParity(name, float("inf"), float("inf"))
    max_abs = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(a[finite]).max(initial=0.0))
    return OutputParity(name, max_abs / scale if scale else (float("inf") if max_abs else 0.0), max_abs)
