"""For those who call `torch.onnx.export` themselves, or a toolkit that does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the table for `torch.onnx.export(..., dynamo=True, custom_translation_table=...)`.

    It is empty. torch takes the operators of actswap apart into its own when it meets one that has no translation, and
    `dynamo=False` traces their formulas. So a toolkit's own export works without it. The nodes that the native kernels
    run, and the comparison with PyTorch, are in files of `actswap.export_onnx` only.

    Returns:
        An empty table.

    >>> translation_table()
    {}
    """
    return {}
