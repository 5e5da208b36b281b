"""A PyTorch model as an exported program with dynamic axes, and as an ONNX graph."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actswap.capture.quiet import quiet
from actswap.errors import ExportError, first_line
from actswap.onnx.translate import translation_table

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def batch_size(inputs: Inputs) -> int | None:
    """Return the length of the first tensor input's first axis; None if no input has an axis."""
    return next((leaf.shape[0] for leaf in tensors(inputs) if leaf.dim()), None)


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors of a nested structure, in the order in which the exporter numbers them."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def resize(tensor: Tensor, shape: Sequence[int], scale: float = 1.0) -> Tensor:
    """Repeat or cut a tensor to another shape.

    Floating-point values are multiplied by `scale`, so that the data differ too.
    """
    for axis, length in enumerate(shape):
        tensor = tensor.index_select(axis, torch.arange(length, device=tensor.device) % tensor.shape[axis])
    return tensor * scale if tensor.is_floating_point() else tensor


def with_batch(inputs: Inputs, batch: int) -> Inputs:
    """Return the inputs with another batch size; tensors whose first axis is the batch are repeated or cut."""
    old = batch_size(inputs)

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == old:
            return resize(leaf, (batch, *leaf.shape[1:]))
        return leaf

    changed: Inputs = pytree.tree_map(change, inputs)
    return changed


def dynamic_axes(leaf: Any, batch: int | None, dynamic_batch: bool, dynamic_size: bool) -> dict[int, Any] | None:
    """Return the axes that may change: the batch, and sizes (not the channels of NCHW).

    The exporter finds the sizes that the model itself fixes, for instance by a matrix product; they stay fixed.
    """
    if not isinstance(leaf, Tensor):
        return None
    axes: dict[int, Any] = {}
    if dynamic_batch and leaf.dim() and leaf.shape[0] == batch:
        axes[0] = torch.export.Dim.AUTO
    first = 2 if leaf.dim() >= 4 else 1
    if dynamic_size and (leaf.dim() >= 3 or not leaf.is_floating_point()):
        axes.update({axis: torch.export.Dim.AUTO for axis in range(first, leaf.dim()) if leaf.shape[axis] > 1})
    return axes


def capture(model: nn.Module, inputs: Inputs, dynamic_batch: bool, dynamic_size: bool) -> Any:
    """Export the model to a torch program.

    Raises:
        ExportError: the model cannot be captured with these dynamic axes.
    """
    args, kwargs = inputs
    batch = batch_size(inputs)
    named = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    shapes = pytree.tree_map(lambda leaf: dynamic_axes(leaf, batch, dynamic_batch, dynamic_size), dict(named))
    try:
        with torch.no_grad(), quiet_exporter():
            return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        wanted = " and ".join(n for n, on in (("batch", dynamic_batch), ("size", dynamic_size)) if on)
        raise ExportError(
            f"torch.export cannot capture {type(model).__name__}" + (f" with dynamic {wanted}" if wanted else ""),
            why=first_line(error),
            fix="actswap export ... --fixed-batch --fixed-size (dynamic_batch=False, dynamic_size=False)"
            if wanted
            else "",
        ) from error


def to_graph(program: Any, opset: int) -> ir.Model:
    """Translate an exported program to ONNX; the project's activations become raw nodes (see `translate`)."""
    try:
        with torch.no_grad(), quiet_exporter():
            written = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                custom_translation_table=translation_table(),
                optimize=True,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            "torch.onnx.export cannot translate the model",
            why=first_line(error),
        ) from error
    assert written is not None
    graph: ir.Model = written.model
    return graph


def quiet_exporter() -> AbstractContextManager[None]:
    """Silence the exporter's warnings and log lines about its own internals."""
    return quiet("torch.onnx", "onnxscript", "onnx_ir")
