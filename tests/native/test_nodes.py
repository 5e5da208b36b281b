"""Nodes of ONNX files whose parts disagree: the kernels compute what the function body computes, or refuse in words.

benchmarks/hostile_models.py makes more of them, also for a build with sanitizers.
"""

import numpy as np
import onnx
import pytest
from hostile_models import outputs, run
from onnx import helper, numpy_helper
from onnx_cases import C, cases

from actswap.onnx.library import find_library, library_path

pytestmark = pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")


def model_of(label: str, shared: bool = False) -> onnx.ModelProto:
    (case,) = (case for case in cases(shared) if case.label == label)
    return case.model(4, 1)


def replaced(model: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def with_attribute(model: onnx.ModelProto, name: str, value) -> onnx.ModelProto:
    node = model.graph.node[0]
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    return model


def both(model: onnx.ModelProto, shape=(2, C, 5, 7)):
    """Return (y by the kernels, y by the body), None for one that refuses."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    data = model.SerializeToString()
    return outputs(data, {"x": x}, library_path()), outputs(data, {"x": x}, "")


BROKEN = {
    "two betas for more channels": lambda: replaced(model_of("swish"), "beta", np.ones((2, 1, 1))),
    "no betas": lambda: replaced(model_of("swish"), "beta", np.ones((0,))),
    "one coefficient too few": lambda: replaced(model_of("pau_B"), "a", np.ones((5, C, 1, 1))),
    "coefficients without an axis": lambda: replaced(model_of("pau_B"), "a", np.ones(())),
    "first weights for other channels": lambda: replaced(model_of("meta_acon_channel"), "w1", np.ones((4, C + 1))),
    "fewer first biases": lambda: replaced(model_of("meta_acon_channel"), "b1", np.ones(3)),
    "second weights of another width": lambda: replaced(model_of("dy_relu_2"), "w2", np.ones((4 * C, 3))),
    "no lambdas": lambda: replaced(model_of("dy_relu_2"), "lambdas", np.ones((0, 1))),
    "an axis that x lacks": lambda: with_attribute(model_of("meta_acon_channel"), "axes", [2, 9]),
    "a view of another shape": lambda: with_attribute(model_of("dy_relu_2"), "view", [0, C, 2, 1]),
    "a table of another shape": lambda: with_attribute(model_of("dy_relu_2"), "table", [0, 4, C + 1]),
    "a temperature that is a list": lambda: with_attribute(model_of("dy_relu_c"), "tau", [1.0]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_plain_runtime_refuses_is_refused(name):
    assert both(BROKEN[name]()) == (None, None)


MEMBERS = ["swish", "acon_c", "pau_A", "opau_legendre"]


@pytest.mark.parametrize("label", MEMBERS)
def test_any_parameter_that_broadcasts_is_computed(label):
    model = model_of(label, shared=True)
    rational = label.startswith(("pau", "opau"))
    rng = np.random.default_rng(1)
    for shape in ((1, C, 1, 1), (C, 5, 7), (5, 1), (2, 1, 1, 1), (1, C, 1, 7)):
        for tensor in list(model.graph.initializer):
            if tensor.name == "tails":
                continue
            lead = numpy_helper.to_array(tensor).shape[:1] if rational else ()
            replaced(model, tensor.name, 0.5 + 0.1 * rng.standard_normal((*lead, *shape)))
        got, want = both(model)
        assert got is not None
        # Rationals of moderate coefficients: some tens of roundings of 6e-8, the same in float32 either way.
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_x_as_its_own_parameter():
    model = model_of("swish")
    model.graph.node[0].input[1] = "x"
    got, want = both(model)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize(("name", "value"), [("block", 8), ("block", -8), ("block", 1 << 40), ("cap", 0.0)])
def test_attributes_of_prepared_files_are_refused_in_portable_ones(name, value):
    got, want = both(with_attribute(model_of("swish"), name, value))
    assert got is None and want is not None


@pytest.mark.parametrize("kind", ["operator", "convolution"])
def test_random_broken_files(kind):
    found = run(kind, 0, 100)
    assert sum(found.values()) == 100
    assert len(found) > 1 and not [text for text in found if text.startswith("FINDING")]
