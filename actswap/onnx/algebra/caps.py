"""min(f(x), cap) as one node: the kernels take the cap as an attribute.

Requires a node of domain `actswap` whose only reader is a Clip without a floor, or a Min with one number. Ensures the
same values, bit for bit: the kernel computes the minimum last, and NaN stays. Function bodies do not know the
attribute, so this is for models that the kernels run: prepared ones. DY-ReLU C is left: its attention comes after.
"""

from __future__ import annotations

import onnx_ir as ir

from actswap.onnx.algebra.values import number, only_reader
from actswap.onnx.functions import DOMAIN


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


def cap_of(node: ir.Node) -> float | None:
    """The number that a Clip or Min caps its first input at."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Clip" and len(node.inputs) == 3 and node.inputs[1] is None:
        return number(node.inputs[2])
    if node.op_type == "Min" and len(node.inputs) == 2:
        return number(node.inputs[1])
    return None
