"""Check that a file computes what a PyTorch model computes: in a plain ONNX Runtime, on several inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actswap.checks.precision import limit
from actswap.errors import CaptureError, ExportError, first_line
from actswap.onnx.capture import Inputs, resize, tensors
from actswap.onnx.functions import Array
from actswap.onnx.parity import OutputParity, compare, ranges, worst
from actswap.onnx.runtime import cpu_session

TOLERANCE = 1e-4
_MOST_HALF = 0.1  # of what an output varies by; a model that loses more in float16 is not exported
_FLOATS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
# (batch, added size) of the further inputs: one sample, an odd number, and a larger picture.
_OTHERS = ((1, 0), (3, 0), (2, 32))

Shapes = Mapping[str, tuple[int | str, ...]]


@dataclass(frozen=True)
class Proof:
    """Result of `prove`: parity per output over all checks, shapes of the checked inputs, notes."""

    parity: tuple[OutputParity, ...]
    checked: tuple[tuple[tuple[int, ...], ...], ...]
    notes: tuple[str, ...]


def plain_session(file: Path) -> Any:
    """Open a file in ONNX Runtime's CPU provider, without the library of the project."""
    try:
        return cpu_session(file)
    except Exception as error:
        raise ExportError("ONNX Runtime cannot load the exported file", why=str(error)) from error


def prove(
    session: Any,
    reference: nn.Module,
    inputs: Inputs,
    low: nn.Module | None = None,
    given: Inputs | None = None,
    asked: bool = True,
) -> Proof:
    """Compare a session with PyTorch on the inputs, on other batch sizes and on another size.

    Args:
        session: the file, opened.
        reference: the model in float32.
        inputs: its inputs.
        low: the model in float16 if the file is; its own distance from `reference` decides the tolerance.
        given: the inputs in float16.
        asked: float16 was asked for. A model that is itself in float16 is not refused for what it loses there.

    Raises:
        ExportError: an output differs by more than 1e-4 of what it varies by; in float16, by more than four times what
            PyTorch itself loses there plus one rounding (2^-10); or PyTorch itself overflows there, or loses more than
            a tenth.
        CaptureError: the model cannot be run on the inputs.
    """
    given = given or inputs
    shapes = {value.name: tuple(value.shape) for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    checks: list[tuple[OutputParity, ...]] = []
    checked: list[tuple[tuple[int, ...], ...]] = []
    notes = []
    runs: list[tuple[Inputs, list[Array]]] = []
    for full, half in [(inputs, given), *_others(inputs, given, shapes)]:
        tried = tuple(tuple(t.shape) for t in tensors(full))
        try:
            runs.append((half, outputs(reference, full)))
        except CaptureError as error:
            if not runs:
                raise
            notes.append(f"not checked on {list(tried)}: the model refuses it ({error.why})")
            continue
        checked.append(tried)
    seen = ranges([expected for _, expected in runs])
    for tried, (half, expected) in zip(checked, runs, strict=True):
        rows = compare(names, expected, run(session, half), seen)
        limits = [max(TOLERANCE, each.rounding) for each in seen]
        if low is not None:
            own = compare(names, expected, outputs(low, half), seen)
            limits = _half_limits(own, tried, _MOST_HALF if asked else math.inf)
            notes += [
                f"output {row.name} says little: the model in float16 is itself {row.relative:.2g} from float32; "
                "--dtype float32 is exact"
                for row in own
                if row.relative > _MOST_HALF
            ]
        for row, most in zip(rows, limits, strict=True):
            if not row.relative <= most:
                raise ExportError(
                    f"the exported file does not agree with PyTorch on inputs {list(tried)}",
                    where=f"output {row.name}",
                    why=f"relative error {row.relative:.3g}, allowed {most:.3g}",
                )
        checks.append(rows)
    return Proof(worst(*checks), tuple(checked), tuple(dict.fromkeys(notes)))


def _half_limits(rows: Sequence[OutputParity], tried: tuple[tuple[int, ...], ...], most: float) -> list[float]:
    """Return what each output may differ by in float16, from what PyTorch itself differs by there."""
    bad = next((row for row in rows if not (row.relative <= most and np.isfinite(row.relative))), None)
    if bad is not None:
        loses = "overflows: outputs become infinite or NaN" if not np.isfinite(bad.relative) else "loses too much"
        raise ExportError(
            f"the model {loses} in float16, on inputs {list(tried)}",
            where=f"output {bad.name}",
            why=f"float16 ends at 65504 and has 11 bits; PyTorch's own relative error there is {bad.relative:.3g}",
            fix="leave --half out, or add --dtype float32 if the model is in float16; or scale its inputs",
        )
    return [limit(TOLERANCE, row.relative, 2.0**-10) for row in rows]


def _others(inputs: Inputs, given: Inputs, shapes: Shapes) -> list[tuple[Inputs, Inputs]]:
    base = [t.shape for t in tensors(inputs)]
    pairs = [(_other(inputs, shapes, *change), _other(given, shapes, *change)) for change in _OTHERS]
    return [pair for pair in pairs if [t.shape for t in tensors(pair[0])] != base]


def _other(inputs: Inputs, shapes: Shapes, batch: int, size: int) -> Inputs:
    """Return the inputs with another batch and size, along the axes that the file leaves open."""
    leaves, spec = pytree.tree_flatten(inputs)
    position = iter(shapes.values())
    changed = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            names: Sequence[int | str] = next(position, tuple(leaf.shape))
            shape = [
                length if not isinstance(name, str) or not name.isidentifier() else length + size if axis else batch
                for axis, (length, name) in enumerate(zip(leaf.shape, names, strict=True))
            ]
            leaf = leaf if shape == list(leaf.shape) else resize(leaf, shape, 0.9)
        changed.append(leaf)
    other: Inputs = pytree.tree_unflatten(changed, spec)
    return other


def takes_other_sizes(model: nn.Module, inputs: Inputs) -> bool:
    """True if the model accepts larger pictures (inputs of four axes or more), or takes no pictures."""

    def larger(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() >= 4:
            return resize(leaf, (*leaf.shape[:2], *(length + _OTHERS[-1][1] for length in leaf.shape[2:])))
        return leaf

    try:
        call(model, pytree.tree_map(larger, inputs))
    except CaptureError:
        return False
    return True


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run the model without gradients; raises CaptureError if it fails."""
    try:
        with torch.no_grad():
            return model(*inputs[0], **inputs[1])
    except ExportError:
        raise
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be run on the inputs",
            why=first_line(error),
        ) from error


def outputs(model: nn.Module, inputs: Inputs) -> list[Array]:
    """Return the tensors of the model's result, in order, as arrays."""
    return [leaf.detach().cpu().numpy() for leaf in tensors(call(model, inputs))]


def output_names(model: nn.Module, inputs: Inputs) -> list[str]:
    """Return a name for each output: keys of a dict, else `output`, `output_1`, ..."""
    found = pytree.tree_leaves_with_path(call(model, inputs))
    paths = [path for path, leaf in found if isinstance(leaf, Tensor)]
    return [
        "_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", k)))) for key in path)
        if any(isinstance(key, pytree.MappingKey) for key in path)
        else ("output" if k == 0 else f"output_{k}")
        for k, path in enumerate(paths)
    ]


def feed_of(session: Any, given: Sequence[Tensor]) -> dict[str, Array]:
    """Return the tensors by the names of the session's inputs, floating-point ones in the precision that it takes."""
    feed = {}
    for value, leaf in zip(session.get_inputs(), given, strict=True):
        plain = leaf.detach().cpu()
        array = (plain.float() if plain.dtype == torch.bfloat16 else plain).contiguous().numpy()
        dtype = _FLOATS.get(value.type)
        feed[value.name] = array.astype(dtype) if dtype is not None and array.dtype.kind == "f" else array
    return feed


def takes_half(session: Any) -> bool:
    """Return whether a file is in float16: an input or an output is."""
    return any(value.type == "tensor(float16)" for value in (*session.get_inputs(), *session.get_outputs()))


def run(session: Any, inputs: Inputs) -> list[Array]:
    """Run a session on the tensors of the inputs, in order."""
    feed = feed_of(session, tensors(inputs))
    try:
        found: list[Array] = session.run(None, feed)
    except Exception as error:
        shapes = [tuple(array.shape) for array in feed.values()]
        raise ExportError(f"ONNX Runtime cannot run the exported file on {shapes}", why=str(error)) from error
    return found
