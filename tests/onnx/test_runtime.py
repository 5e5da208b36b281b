"""Quiet sessions: from a model, its bytes or a file, on the CPU, and nothing is written to stderr."""

import numpy as np
import onnx
import pytest
from onnx import helper

from actswap.onnx.runtime import CPU, cpu_session


def doubling(operator: str = "Add") -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x", "x"], ["y"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_model_its_bytes_and_its_file_open_alike(tmp_path):
    model = doubling()
    onnx.save(model, tmp_path / "m.onnx")
    for source in (model, model.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        session = cpu_session(source)
        assert session.get_providers() == [CPU]
        np.testing.assert_array_equal(session.run(None, {"x": np.float32([1, 2, 3])})[0], [2, 4, 6])


def test_an_error_is_raised_and_not_logged_too(capfd):
    with pytest.raises(Exception, match="NoSuchOperator"):
        cpu_session(doubling("NoSuchOperator"))
    session = cpu_session(doubling())
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT|Got invalid dimensions"):
        session.run(None, {"x": np.zeros(4, np.float32)})
    assert capfd.readouterr() == ("", "")
