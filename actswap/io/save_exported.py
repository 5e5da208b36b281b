"""A converted model as an exported program of torch, in memory or as a `.pt2` file."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actswap.activations.decompositions import decompositions
from actswap.capture.duplicate import settled
from actswap.capture.evaluating import modes_kept
from actswap.capture.quiet import quiet
from actswap.errors import ExportError, first_line
from actswap.io.atomic import refuse_overwrite, write_bytes


def export_program(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    decompose: bool = False,
) -> torch.export.ExportedProgram:
    """Capture a model as an exported program.

    The batch is dynamic if torch can export the model so. A program that is not decomposed runs with the kernels, in a
    process that has imported actswap. A decomposed one needs nothing but torch, and other tools can read it
    (AOTInductor, ExecuTorch, LiteRT, Core ML; `torch.jit.trace` takes its `.module()`).

    Args:
        model: captured in evaluation mode; not changed.
        example_inputs: a tensor, or a tuple of the positional arguments.
        example_kwargs: keyword arguments.
        decompose: operators of PyTorch alone, in place of those of actswap (`actswap.decompositions`).

    Returns:
        The program.

    Raises:
        ExportError: torch.export cannot capture the model.

    >>> from actswap.activations.swish import Swish
    >>> program = export_program(nn.Sequential(nn.Linear(2, 2), Swish()), torch.ones(3, 2), decompose=True)
    >>> program.module()(torch.ones(5, 2)).shape
    torch.Size([5, 2])
    """
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    with modes_kept(model), quiet("torch.export"):
        program = _export(settled(model).eval(), args, dict(example_kwargs or {}))
        return program.run_decompositions(decompositions()) if decompose else program


def save_pt2(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    decompose: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write an exported program: `torch.export.load` reads it after `import actswap`.

    The batch is dynamic if torch can export the model so.

    Args:
        model: the converted model.
        path: the `.pt2` file.
        example_inputs: positional inputs; the first dimension of each tensor is tried as dynamic.
        example_kwargs: keyword inputs.
        decompose: operators of PyTorch alone: the file needs no actswap.
        overwrite: replace an existing file.

    Returns:
        The path.

    Raises:
        FileError: the file exists, or cannot be written.
        ExportError: torch.export cannot capture the model.
    """
    refuse_overwrite(path, overwrite=overwrite)
    program = export_program(model, example_inputs, example_kwargs, decompose=decompose)
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
