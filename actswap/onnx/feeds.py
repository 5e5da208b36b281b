"""Inputs for a file that nobody gave inputs for: of its types and shapes, at the scale that it has seen.

`export_onnx` and `convert` leave the statistics of their inputs in the file's metadata. A file without them tells the
scale of an input that it quantises. For anything else several sizes and numbers are tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from actswap.onnx.functions import Array

KEY = "actswap.inputs"
Feed = Mapping[str, Array]
_SIZES = (64, 320, 16000)  # of axes whose length is free: pictures, larger pictures, sound
_LARGEST_NUMBER = 1e6  # of elements of one input: metadata is not trusted to be small


def describe(feeds: Sequence[Feed]) -> str:
    """Return the metadata entry: per input its type, a shape, and the range, mean and deviation of its values.

    >>> describe([{"x": np.array([[0.0, 2.0]], np.float32)}])
    '{"x": {"type": "float32", "shape": [1, 2], "low": 0.0, "high": 2.0, "mean": 1.0, "std": 1.0}}'
    """
    found = {}
    for name, first in feeds[0].items():
        values = np.concatenate([feed[name].ravel() for feed in feeds]).astype(np.float64)
        values = values[np.isfinite(values)]
        numbers = (values.min(), values.max(), values.mean(), values.std()) if values.size else (0.0,) * 4
        rounded = (float(f"{number:.6g}") for number in numbers)
        found[name] = {
            "type": first.dtype.name,
            "shape": list(first.shape),
            **dict(zip(("low", "high", "mean", "std"), rounded, strict=True)),
        }
    return json.dumps(found)


def working_feeds(model: onnx.ModelProto, run: Callable[[Feed], Sequence[Array]]) -> tuple[list[Feed], str]:
    """Return two inputs that the model takes and whose outputs differ.

    Args:
        model: the model; its external data are not read.
        run: runs it.

    Returns:
        The inputs and "", or no inputs and the reason in words.
    """
    runs = False
    for first, second in _candidates(model):
        try:
            results = run(first), run(second)
        except Exception:  # the model does not take these: try the next
            continue
        runs = True
        if any(_tells(*pair) for pair in zip(*results, strict=True)):
            return [first, second], ""
    shown = [(value.name, _shape(value)) for value in inputs_of(model)]
    why = "its outputs do not depend on random inputs" if runs else "it takes no random inputs"
    return [], f"{why}; its inputs are {shown}"


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller gives: those that no initializer is the default of."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _tells(first: Array, second: Array) -> bool:
    """True if an output can show a difference: it is finite, and changes with the inputs."""
    if first.dtype == object or second.dtype == object:
        return False
    finite = np.isfinite(first).all() and np.isfinite(second).all()
    return bool(finite) and first.size > 0 and (first.shape != second.shape or not np.array_equal(first, second))


def _candidates(model: onnx.ModelProto) -> Iterator[tuple[Feed, Feed]]:
    """Yield pairs of inputs, the likeliest first."""
    values = inputs_of(model)
    if any(value.type.WhichOneof("value") != "tensor_type" for value in values):
        return
    described = _described(model, values)
    if described is not None:
        yield _drawn(described, 0), _drawn(described, 1)
    scales = _quantised_scales(model)
    for size in _SIZES:
        for scalar in (None, 10.0):
            yield _made_up(values, scales, size, scalar, 0), _made_up(values, scales, size, scalar, 1)


def _described(model: onnx.ModelProto, values: Sequence[onnx.ValueInfoProto]) -> dict[str, dict[str, Any]] | None:
    """Return the entry of the metadata, if it is about these inputs."""
    text = next((p.value for p in model.metadata_props if p.key == KEY), None)
    try:
        found = json.loads(text) if text is not None else {}
        for value in values:
            entry, shape = found[value.name], _shape(value)
            numbers = [float(entry[key]) for key in ("low", "high", "mean", "std")]
            lengths = [int(n) for n in entry["shape"]]
            if len(lengths) != len(shape) or not np.isfinite(numbers).all() or np.prod(lengths) > _LARGEST_NUMBER:
                return None
            # A batch of one cannot show that samples are mixed up.
            lengths = [
                wanted if isinstance(wanted, int) else max(n, 2) if axis == 0 else n
                for axis, (n, wanted) in enumerate(zip(lengths, shape, strict=True))
            ]
            found[value.name] = {**entry, "shape": lengths, "dtype": _dtype(value)}
    except (KeyError, TypeError, ValueError):
        return None
    return {value.name: found[value.name] for value in values} or None


def _drawn(described: Mapping[str, Mapping[str, Any]], seed: int) -> Feed:
    random = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for name, entry in described.items():
        shape, dtype = entry["shape"], entry["dtype"]
        if np.issubdtype(dtype, np.floating):
            values = random.normal(entry["mean"], max(entry["std"], 0.0), shape).clip(entry["low"], entry["high"])
        else:
            values = random.integers(int(entry["low"]), max(int(entry["low"]), int(entry["high"])) + 1, shape)
        feed[name] = np.asarray(values).astype(dtype)
    return feed


def _made_up(
    values: Sequence[onnx.ValueInfoProto], scales: Mapping[str, float], size: int, scalar: float | None, seed: int
) -> Feed:
    """Make random arrays: normal numbers, zeros and ones for integers.

    A number without axes is often a limit: with `scalar` given, the k-th is scalar * 100^k.
    """
    random = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    scalars = 0
    for value in values:
        shape, dtype = _shape(value), _dtype(value)
        free = (1 if axis == 0 and len(shape) > 1 else size for axis in range(len(shape)))
        lengths = [d if isinstance(d, int) else f for d, f in zip(shape, free, strict=True)]
        if not lengths and scalar is not None:
            feed[value.name] = np.asarray(scalar * 100.0**scalars).astype(dtype)
            scalars += 1
        elif np.issubdtype(dtype, np.floating):
            numbers = random.standard_normal(lengths) * scales.get(value.name, 1.0)
            feed[value.name] = np.asarray(numbers).astype(dtype)
        else:
            feed[value.name] = np.asarray(random.integers(0, 2, lengths)).astype(dtype)
    return feed


def _quantised_scales(model: onnx.ModelProto) -> dict[str, float]:
    """Return a standard deviation for each input that is quantised: a sixth of the range of its 8-bit form."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.input[0]: 256 / 6 * float(numpy_helper.to_array(stored[node.input[1]]).max())
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[1] in stored and not stored[node.input[1]].external_data
    }


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]


def _dtype(value: onnx.ValueInfoProto) -> Any:
    kind = value.type.tensor_type.elem_type
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind != TensorProto.STRING else np.dtype(object)
