"""What passes ask of values: constants, the only reader, and names of their own."""

import numpy as np
import onnx_ir as ir

from actswap.onnx.algebra.values import constant, initializer, number, only_reader

TEXT = """<ir_version: 10, opset_import: ["" : 18]>
g (float[2] x) => (float[2] y, float[2] z)
<float[2] w = {1.0, 2.0}, float one = {3.0}>
{ a = Mul (x, w)  b = Add (a, one)  y = Relu (b)  z = Neg (a) }"""


def graph() -> ir.Graph:
    return ir.from_onnx_text(TEXT).graph


def values(g: ir.Graph) -> dict[str, ir.Value]:
    made = {v.name: v for node in g for v in (*node.inputs, *node.outputs) if v is not None}
    return made


def test_constants_are_initializers_and_not_what_depends_on_an_input():
    found = values(graph())
    np.testing.assert_array_equal(constant(found["w"]), [1.0, 2.0])
    assert number(found["one"]) == 3.0 and number(found["w"]) is None
    assert constant(found["x"]) is None and constant(found["a"]) is None and constant(None) is None


def test_the_only_reader_reads_once_and_outputs_have_none():
    found = values(graph())
    assert only_reader(found["b"]).op_type == "Relu"
    assert only_reader(found["a"]) is None, "it has two readers"
    assert only_reader(found["y"]) is None, "the graph gives it out"


def test_initializers_get_names_of_their_own():
    g = graph()
    names = [initializer(g, "scale", np.float32([k])).name for k in range(3)]
    assert names == ["scale", "scale@1", "scale@2"] and set(names) <= set(g.initializers)
