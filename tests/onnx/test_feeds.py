"""Inputs made up for a file: of its types and shapes, at its scale, and only such that can tell right from wrong."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from actswap.onnx.feeds import KEY, describe, working_feeds
from actswap.onnx.runtime import cpu_session


def model_of(inputs, nodes, initializers=(), outputs=("y",), props=None):
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    ends = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", values, ends, list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(made, props or {})
    return made


def runner(model):
    session = cpu_session(model)
    return lambda feed: session.run(None, dict(feed))


def test_the_scale_and_shape_that_the_file_has_seen():
    seen = describe([{"x": np.linspace(300, 400, 12, dtype=np.float32).reshape(1, 3, 4)}])
    model = model_of({"x": (1, ["n", "c", 4])}, [helper.make_node("Relu", ["x"], ["y"])], props={KEY: seen})
    (first, second), why = working_feeds(model, runner(model))
    assert why == "" and not np.array_equal(first["x"], second["x"])
    for feed in (first, second):
        assert feed["x"].shape == (2, 3, 4), "a batch of one is made two"
        assert feed["x"].dtype == np.float32 and feed["x"].min() >= 300 and feed["x"].max() <= 400


def test_integers_stay_in_the_range_that_was_seen():
    table = numpy_helper.from_array(np.random.default_rng(0).standard_normal((9, 2)).astype(np.float32), "t")
    ids = {"ids": np.array([[7, 8, 7]], np.int64)}
    nodes = [helper.make_node("Gather", ["t", "ids"], ["y"])]
    for props in ({KEY: describe([ids])}, {}):
        model = model_of({"ids": (TensorProto.INT64, ["n", 3])}, nodes, [table], props=props)
        (first, _), _ = working_feeds(model, runner(model))
        assert first["ids"].dtype == np.int64
        assert set(first["ids"].ravel()) <= ({7, 8} if props else {0, 1})


def test_a_quantised_input_tells_its_scale():
    stored = [numpy_helper.from_array(np.float32(3.0), "s"), numpy_helper.from_array(np.uint8(128), "z")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = model_of({"x": (1, ["n", 1000])}, nodes, stored)
    (first, _), _ = working_feeds(model, runner(model))
    # The 8 bits reach from -384 to 381: a sixth of that is the deviation, here of 1,000 numbers.
    assert 100 < first["x"].std() < 160


@pytest.mark.parametrize(
    "entry", ["", "{}", '{"x": 1}', '{"x": {"shape": [9999999, 999]}}', '{"x": {"low": "a"}}', "[1"]
)
def test_a_damaged_entry_is_ignored(entry):
    model = model_of({"x": (1, ["n", 3])}, [helper.make_node("Relu", ["x"], ["y"])], props={KEY: entry})
    feeds, why = working_feeds(model, runner(model))
    assert len(feeds) == 2 and why == ""


def test_outputs_that_show_nothing_are_no_proof():
    constant = numpy_helper.from_array(np.zeros((1, 3), np.float32), "zero")
    dead = model_of({"x": (1, ["n", 3])}, [helper.make_node("Mul", ["x", "zero"], ["y"])], [constant])
    feeds, why = working_feeds(dead, runner(dead))
    assert feeds == [] and "do not depend" in why and "'x'" in why
    nan = model_of({"x": (1, ["n", 3])}, [helper.make_node("Div", ["x", "zero"], ["y"])], [constant])
    assert working_feeds(nan, runner(nan))[0] == []
