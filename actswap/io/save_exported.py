"""Write a converted model as a self-contained exported program."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actswap.errors import ExportError, first_line
from actswap.io.atomic import refuse_overwrite, write_bytes


def save_pt2(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a self-contained exported program that needs only torch and actswap.

    The batch is dynamic if torch can export the model so.

    Args:
        model: the converted model.
        path: the `.pt2` file.
        example_inputs: positional inputs; the first dimension of each tensor is tried as dynamic.
        example_kwargs: keyword inputs.
        overwrite: replace an existing file.

    Returns:
        The path.

    Raises:
        FileError: the file exists, or cannot be written.
        ExportError: torch.export cannot capture the model.
    """
    refuse_overwrite(path, overwrite=overwrite)
    program = _export(model, example_inputs, dict(example_kwargs or {}))
    content = io.BytesIO()  # torch's own writer ends the process when the disk is full
    torch.export.save(program, content)
    write_bytes(path, content.getvalue())
    return Path(path)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim.AUTO

    def shape_of(value: Any) -> Any:
        return {0: batch} if isinstance(value, Tensor) and value.dim() and value.shape[0] > 0 else None

    # The exporter makes a batch of one a constant, so it is shown a batch of two.
    doubled = tuple(torch.cat([a, a]) if isinstance(a, Tensor) and a.dim() and a.shape[0] == 1 else a for a in args)
    shapes = tuple(map(shape_of, doubled))
    try:
        # A forward that takes *args (an island's) needs the shapes one level deeper. If the batch of the model is
        # fixed, the shape of the example is exported.
        for nested in (shapes, (shapes,)) if not kwargs else ():
            with suppress(Exception):
                return torch.export.export(model, doubled, kwargs, dynamic_shapes=nested)
        return torch.export.export(model, args, kwargs)
    except Exception as problem:  # torch.export raises many kinds
        raise ExportError(
            "the model cannot be exported with torch.export",
            why=first_line(problem),
            fix="save a bundle instead: --format bundle",
        ) from problem
