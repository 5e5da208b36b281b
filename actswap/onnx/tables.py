"""Activations between 8-bit values as tables of 256 entries, in standard operators.

A quantised file computes an activation as DequantizeLinear, activation, QuantizeLinear. Of the 256 values that come in
each gives one that goes out, so the three become a look-up: Gather on a table, with one set of 256 entries per channel
if the parameters differ by channel. Entries are computed in float64 and rounded once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from actswap.errors import ExportError
from actswap.onnx.float64 import evaluate
from actswap.onnx.functions import DOMAIN, Array

_CODES = 256
_POOLING = ("MetaAcon", "DyReLU")


@dataclass(frozen=True)
class Table:
    """One activation that became a table: its site, and the number of sets of 256 entries."""

    site: str
    sets: int


def write_tables(model: onnx.ModelProto) -> tuple[list[Table], dict[str, str]]:
    """Replace the static activations between quantised values, in place.

    Args:
        model: a file of the runtime's quantiser, with activations of domain `actswap` and their bodies.

    Returns:
        The tables, and the activations that stay in float32, with reasons.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    bodies = {body.name: body for body in model.functions if body.domain == DOMAIN}
    made: list[Table] = []
    left: dict[str, str] = {}
    for node in [n for n in graph.node if n.domain == DOMAIN]:
        site = node.name or node.output[0]
        before = makers.get(node.input[0])
        if node.op_type.startswith(_POOLING):
            left[site] = "its gate depends on the input; it stays in float32 between dequantised values"
        elif before is None or before.op_type != "DequantizeLinear" or before.input[0] in stored:
            left[site] = "its input is not quantised"
        elif any(name not in stored for name in (*before.input[1:], *node.input[1:])):
            left[site] = "its parameters or scales are not in the file"
        elif numpy_helper.to_array(stored[before.input[1]]).size != 1:
            left[site] = "its input has a scale for every channel"
        else:
            try:
                made.append(_write(graph, node, before, bodies[node.op_type], stored))
            except ExportError as error:
                left[site] = error.what + (f": {error.why}" if error.why else "")
    _drop_unused(model)
    return made, left


def entries(
    body: onnx.FunctionProto, parameters: list[Array], before: tuple[Array, Array], after: tuple[Array, Array] | None
) -> tuple[Array, int]:
    """Return the table of an activation.

    Args:
        body: its function.
        parameters: its inputs after x.
        before: scale and zero point of x; the type of the zero point is that of the codes.
        after: scale and zero point of the result; None leaves it in float32.

    Returns:
        A (sets, 256) array, by the code of x less the lowest code, and the number of axes from the channels on.
    """
    scale, zero = before
    codes = np.arange(_CODES) + np.iinfo(zero.dtype).min
    x = (codes - zero.astype(np.int64)) * scale.astype(np.float64)
    rank = max((a.ndim - _leading(body) for a in parameters), default=0)
    values = evaluate(body, [x.reshape(_CODES, *[1] * rank), *parameters])
    rows = np.ascontiguousarray(np.broadcast_to(values, (_CODES, *values.shape[1:])).reshape(_CODES, -1).T)
    if after is None:
        return rows.astype(np.float32), rank
    scale, zero = after
    ends = np.iinfo(zero.dtype)
    rounded = np.rint(rows / scale.astype(np.float64)) + zero.astype(np.int64)
    return np.clip(np.nan_to_num(rounded), ends.min, ends.max).astype(zero.dtype), rank


def _leading(body: onnx.FunctionProto) -> int:
    return 1 if body.name.startswith(("Pau", "Opau")) else 0


def _write(
    graph: onnx.GraphProto,
    node: NodeProto,
    before: NodeProto,
    body: onnx.FunctionProto,
    stored: dict[str, onnx.TensorProto],
) -> Table:
    """Put the look-up in place of one activation, and of each QuantizeLinear after it."""
    site, y = node.name or node.output[0], node.output[0]
    parameters = [numpy_helper.to_array(stored[name]) for name in node.input[1:]]
    scale_in = _scale(before, stored)
    readers = [reader for reader in graph.node if y in reader.input]
    quantised = [r for r in readers if r.op_type == "QuantizeLinear" and all(name in stored for name in r.input[1:])]
    quantised = [r for r in quantised if _scale(r, stored)[0].size == 1 and _scale(r, stored)[1].dtype.itemsize == 1]
    plain = len(quantised) < len(readers) or any(value.name == y for value in graph.output)
    wanted: list[tuple[str, NodeProto | None]] = [(r.output[0], r) for r in quantised]
    wanted += [(y, None)] if plain else []
    new: list[NodeProto] = []
    index, sets = "", 0
    for k, (name, reader) in enumerate(wanted):
        after = None if reader is None else _scale(reader, stored)
        table, rank = entries(body, parameters, scale_in, after)
        if not index:
            sets = len(table)
            index = _index(graph, site, before.input[0], scale_in[1], sets, rank, new)
        graph.initializer.append(numpy_helper.from_array(table.reshape(-1), f"{site}.table{k or ''}"))
        new.append(helper.make_node("Gather", [f"{site}.table{k or ''}", index], [name], name=site if not k else ""))
    gone = [node, *quantised]
    place = next(i for i, other in enumerate(graph.node) if other is node or other.output[:] == node.output[:])
    names = {tuple(g.output) for g in gone}
    kept = [other for other in graph.node if tuple(other.output) not in names]
    position = place - sum(tuple(other.output) in names for other in list(graph.node)[:place])
    ordered = [*kept[:position], *new, *kept[position:]]
    copies = [_copy(other) for other in ordered]
    del graph.node[:]
    graph.node.extend(copies)
    return Table(site, sets)


def _index(
    graph: onnx.GraphProto, site: str, codes: str, zero: Array, sets: int, rank: int, new: list[NodeProto]
) -> str:
    """Write the position in the table: the code, less the lowest one, plus 256 for each channel before."""
    new.append(helper.make_node("Cast", [codes], [f"{site}.code"], to=onnx.TensorProto.INT32))
    offset = np.arange(sets, dtype=np.int32) * _CODES - np.int32(np.iinfo(zero.dtype).min)
    if not offset.any():
        return f"{site}.code"
    shape = (sets, *[1] * (rank - 1)) if sets > 1 else ()
    graph.initializer.append(numpy_helper.from_array(offset.reshape(shape), f"{site}.offset"))
    new.append(helper.make_node("Add", [f"{site}.code", f"{site}.offset"], [f"{site}.place"]))
    return f"{site}.place"


def _scale(node: NodeProto, stored: dict[str, onnx.TensorProto]) -> tuple[Array, Array]:
    """Return scale and zero point of a quantising or dequantising node."""
    scale = numpy_helper.to_array(stored[node.input[1]])
    zero = numpy_helper.to_array(stored[node.input[2]]) if len(node.input) > 2 else np.zeros((), np.uint8)
    return (scale.reshape(()), zero.reshape(())) if scale.size == 1 else (scale, zero)


def _copy(node: NodeProto) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    return copied


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove what nobody reads any more: dequantised values, parameters, bodies."""
    graph = model.graph
    while True:
        uses = Counter(name for node in graph.node for name in node.input)
        uses.update(value.name for value in graph.output)
        dead = [n for n in graph.node if n.op_type == "DequantizeLinear" and not uses[n.output[0]]]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    inner = {name for node in graph.node for a in node.attribute for g in (a.g, *a.graphs) for name in _names(g)}
    kept = [t for t in graph.initializer if uses[t.name] or t.name in inner]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    called = {node.op_type for node in graph.node if node.domain == DOMAIN}
    bodies = [body for body in model.functions if body.domain != DOMAIN or body.name in called]
    del model.functions[:]
    model.functions.extend(bodies)


def _names(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in node.input}
