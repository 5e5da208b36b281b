"""Agreement of outputs: two lists of arrays, compared one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from actswap.onnx.functions import Array

_ROUNDINGS = 8  # of an output in float32


@dataclass(frozen=True)
class OutputParity:
    """How far an output is from its reference.

    Attributes:
        name: output name.
        relative: largest absolute difference divided by how far the reference goes from its mean on all inputs that
            were run; by its size if it is constant. Infinite if shapes or the places of NaN and infinity differ.
        max_abs: largest absolute difference.
    """

    name: str
    relative: float
    max_abs: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Range:
    """How an output varies on all inputs that were run.

    Attributes:
        peak: largest distance from its mean; its size if it is constant.
        size: largest absolute value.
    """

    peak: float
    size: float

    @property
    def rounding(self) -> float:
        """Relative error of a few float32 roundings of the output, which no other order of operations can avoid."""
        return _ROUNDINGS * float(np.finfo(np.float32).eps) * self.size / self.peak if self.peak else 0.0


def ranges(runs: Sequence[Sequence[Array]]) -> tuple[Range, ...]:
    """Return the range of every output.

    Args:
        runs: the outputs on each of the inputs.

    >>> ranges([[np.array([1.0])], [np.array([3.0])]])
    (Range(peak=1.0, size=3.0),)
    """
    return tuple(_range([run[i] for run in runs]) for i in range(len(runs[0])))


def _range(arrays: Sequence[Array]) -> Range:
    values = np.concatenate([a.astype(np.float64).ravel() for a in arrays])
    values = values[np.isfinite(values)]
    size = float(np.abs(values).max(initial=0.0))
    peak = float(np.abs(values - values.mean()).max()) if values.size else 0.0
    constant = peak <= _ROUNDINGS * float(np.finfo(np.float32).eps) * size
    return Range(size if constant else peak, size)


def compare(
    names: Sequence[str], reference: Sequence[Array], got: Sequence[Array], seen: Sequence[Range] | None = None
) -> tuple[OutputParity, ...]:
    """Compare outputs pairwise; the lists must be equally long.

    Args:
        names: of the outputs.
        reference: what is right.
        got: what is compared with it.
        seen: how the outputs vary; None is as they vary in `reference` itself.
    """
    seen = ranges([reference]) if seen is None else seen
    return tuple(_compare(*each) for each in zip(names, reference, got, seen, strict=True))


def worst(*checks: Sequence[OutputParity]) -> tuple[OutputParity, ...]:
    """For every output, the largest of its differences over several checks."""
    return tuple(
        OutputParity(row[0].name, max(each.relative for each in row), max(each.max_abs for each in row))
        for row in zip(*checks, strict=True)
    )


def _compare(name: str, reference: Array, got: Array, seen: Range) -> OutputParity:
    if reference.shape != got.shape:
        return OutputParity(name, float("inf"), float("inf"))
    if reference.size == 0:
        return OutputParity(name, 0.0, 0.0)
    a, b = reference.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return OutputParity(name, float("inf"), float("inf"))
    max_abs = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return OutputParity(name, max_abs / seen.peak if seen.peak else (float("inf") if max_abs else 0.0), max_abs)
