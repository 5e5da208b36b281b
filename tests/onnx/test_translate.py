"""Constants of a graph are computed whatever makes them; what depends on the input is refused."""

import numpy as np
import onnx_ir as ir
import pytest

from actswap.errors import ExportError
from actswap.onnx.functions import LOWERINGS
from actswap.onnx.translate import constants, site_name, translation_table

TEXT = """<ir_version: 10, opset_import: ["" : 18]>
g (float[2] x) => (float[2] y)
<float[2] w = {1.0, 2.0}, float[2] v = {3.0, 5.0}>
{ s = Add (w, v)  e = Exp (s)  y = Mul (x, e) }"""


def values() -> dict[str, ir.Value]:
    graph = ir.from_onnx_text(TEXT).graph
    return {v.name: v for node in graph for v in (*node.inputs, *node.outputs) if v is not None}


def test_initializers_and_what_is_computed_of_them():
    found = values()
    w, e, s = constants([found["w"], found["e"], found["s"]], 18)
    np.testing.assert_array_equal(w, [1, 2])
    np.testing.assert_array_equal(s, [4, 7])
    np.testing.assert_allclose(e, np.exp([4.0, 7.0]), rtol=1e-6)


def test_a_parameter_that_depends_on_the_input_is_refused_by_name():
    with pytest.raises(ExportError, match=r"acon_c: the parameter 'x' depends on the input"):
        constants([values()["y"]], 18, "acon_c")


def test_every_lowering_has_a_torch_operator():
    names = {operator._schema.name.split("::")[1] for operator in translation_table()}
    assert names == set(LOWERINGS)


def test_a_node_is_named_by_the_module_that_made_the_call():
    node = ir.Node("", "Relu", [None], num_outputs=1, name="n1")
    assert site_name(node) == "n1"
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'layer1', 'layer1.act', 'acon_c']"
    assert site_name(node) == "layer1.act"
