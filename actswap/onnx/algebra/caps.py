"""Where the minimum of min(f(x), cap) is computed: before the activation for plain runtimes, inside it for kernels.

`fuse_caps` requires a node of domain `actswap` whose only reader is a Clip without a floor, or a Min with one number.
Ensures the same values, bit for bit: the kernel computes the minimum last, and NaN stays. Function bodies do not know
the attribute, so this is for models that the kernels run: prepared ones. DY-ReLU C is left: its attention comes after.

`lift_caps` writes min(f(x), cap) as f(min(x, t)), f(t) = cap: runtimes fuse a Clip into the convolution before it, but
behind an activation it leaves their blocked layout. Requires an ACON or Swish in float32 with the same constant
parameters for all channels, p1 > p2 >= 0, beta > 0 and cap > 0. There f(x) <= 0 for x <= 0, and for x > 0 it rises
through cap at one t; x f'(x) / f(x) <= 1.3, so the value differs by a rounding of t, 2^-23. If p2 is 0, minus infinity
becomes the lowest number: f is 0 at both, and the function body would give NaN at minus infinity.

`sink_caps` is the way back, for kernels, to which a cap costs nothing: f(min(x, t)) as min(f(x), f(t)).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from actswap.onnx.algebra.values import constant, initializer, number, only_reader
from actswap.onnx.functions import DOMAIN

_LOWEST = float(np.finfo(np.float32).min)
_MEMBERS = ("AconC", "AconB", "Swish")


def fuse_caps(model: ir.Model) -> int:
    """Fuse caps in place; return how many."""
    count = 0
    for node in list(model.graph):
        if node.domain != DOMAIN or node.op_type.startswith("DyReLUC"):
            continue
        reader = only_reader(node.outputs[0])
        cap = None if reader is None else cap_of(reader)
        if reader is None or cap is None or reader.outputs[0].is_graph_output():
            continue
        node.attributes.add(ir.AttrFloat32("cap", cap))
        ir.convenience.replace_all_uses_with(reader.outputs[0], node.outputs[0])
        model.graph.remove(reader, safe=True)
        count += 1
    return count


def lift_caps(model: ir.Model) -> tuple[str, ...]:
    """Put caps before their activations, in place; return the names of these."""
    found = []
    for node in list(model.graph):
        if node.domain != DOMAIN:
            continue
        reader, lines, x = only_reader(node.outputs[0]), _one_set(node), node.inputs[0]
        cap = None if reader is None else cap_of(reader)
        if reader is None or cap is None or cap <= 0 or lines is None or x is None:
            continue
        if reader.outputs[0].is_graph_output():
            continue
        floor = _LOWEST if lines[1] == 0 else None
        limits = (floor, _crossing(lines, cap))
        stored = [
            None if limit is None else initializer(model.graph, f"{node.name}.{end}", np.asarray(limit, np.float32))
            for end, limit in zip(("low", "high"), limits, strict=True)
        ]
        clip = ir.Node("", "Clip", [x, *stored], num_outputs=1)
        clip.outputs[0].type, clip.outputs[0].shape = x.type, x.shape
        model.graph.insert_before(node, clip)
        node.replace_input_with(0, clip.outputs[0])
        ir.convenience.replace_all_uses_with(reader.outputs[0], node.outputs[0])
        model.graph.remove(reader, safe=True)
        found.append(str(node.name))
    return tuple(found)


def sink_caps(model: ir.Model) -> int:
    """Make the caps before activations attributes of these, in place; return how many."""
    count = 0
    for node in list(model.graph):
        x = node.inputs[0] if node.domain == DOMAIN else None
        clip = None if x is None else x.producer()
        limit = None if clip is None else cap_of(clip)
        lines = _one_set(node)
        if x is None or clip is None or limit is None or limit <= 0 or lines is None or only_reader(x) is not node:
            continue
        if "cap" in node.attributes:
            continue
        node.attributes.add(ir.AttrFloat32("cap", float(_value(lines, limit))))
        node.replace_input_with(0, clip.inputs[0])
        model.graph.remove(clip, safe=True)
        count += 1
    return count


def cap_of(node: ir.Node) -> float | None:
    """Return the number at which a Clip or Min caps its first input; None for any other node."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Clip" and len(node.inputs) == 3:
        floor = node.inputs[1]
        return number(node.inputs[2]) if floor is None or number(floor) == _LOWEST else None
    if node.op_type == "Min" and len(node.inputs) == 2:
        return number(node.inputs[1])
    return None


def _one_set(node: ir.Node) -> tuple[float, float, float] | None:
    """Return p1, p2 and beta if they serve all channels and f rises through every positive cap once; else None."""
    if node.domain != DOMAIN or node.op_type not in _MEMBERS:
        return None
    x, arrays = node.inputs[0], [constant(value) for value in node.inputs[1:]]
    if x is None or x.dtype != ir.DataType.FLOAT or any(a is None or not a.size or np.ptp(a) for a in arrays):
        return None
    own = [float(np.ravel(array)[0]) for array in arrays if array is not None]
    p1, p2, beta = {"AconC": [], "AconB": [1.0], "Swish": [1.0, 0.0]}[node.op_type] + own
    return (p1, p2, beta) if np.inf > p1 > p2 >= 0 and np.inf > beta > 0 else None


def _value(lines: tuple[float, float, float], x: float) -> float:
    p1, p2, beta = lines
    with np.errstate(over="ignore"):
        return float(x * ((p1 - p2) / (1 + np.exp(-beta * (p1 - p2) * x)) + p2))


def _crossing(lines: tuple[float, float, float], cap: float) -> float:
    """The x > 0 at which f is cap, by halving: f(x) lies between x (p1 + p2) / 2 and x p1."""
    low, high = cap / lines[0], 2 * cap / (lines[0] + lines[1])
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if _value(lines, middle) < cap else (low, middle)
    return high
