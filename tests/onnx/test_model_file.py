"""Models as they are given: files, bytes, protos; their external data wherever it is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from actswap.errors import LoadError
from actswap.onnx.model_file import read_model, tensors_of


def model(place: str = "initializer") -> onnx.ModelProto:
    """y = x + w, with w where `place` says."""
    w = numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")
    x = helper.make_tensor_value_info("x", 1, [300])
    y = helper.make_tensor_value_info("y", 1, [300])
    add = helper.make_node("Add", ["x", "w"], ["y"])
    if place == "initializer":
        graph = helper.make_graph([add], "g", [x], [y], [w])
    elif place == "constant":
        graph = helper.make_graph([helper.make_node("Constant", [], ["w"], value=w), add], "g", [x], [y])
    else:
        inner = helper.make_graph([add], "inner", [], [y], [w])
        true = helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])
        branch = helper.make_node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)
        graph = helper.make_graph([branch], "g", [x], [y], [true])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def outside(place: str, folder: Path, values: float) -> Path:
    """The model with w in a file beside it, filled with a value."""
    made = model(place)
    for tensor in tensors_of(made):
        if tensor.dims == [300]:
            data = np.full(300, values, np.float32).tobytes()
            (folder / "w.bin").write_bytes(data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", "w.bin"), ("length", str(len(data)))):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_other_weights_are_another_digest_wherever_they_are_named(place: str, tmp_path: Path) -> None:
    first = read_model(outside(place, tmp_path, 1.0)).digest()
    assert read_model(outside(place, tmp_path, 1.0)).digest() == first
    assert read_model(outside(place, tmp_path, 2.0)).digest() != first


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_missing_weights_are_named(place: str, tmp_path: Path) -> None:
    path = outside(place, tmp_path, 1.0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(LoadError, match=r"w\.bin should lie beside it"):
        read_model(path)


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_a_model_in_memory_holds_all_its_weights_itself(place: str, tmp_path: Path) -> None:
    made = model(place)
    assert read_model(made).digest() == read_model(made.SerializeToString()).digest()
    with pytest.raises(LoadError, match="cannot have external data"):
        read_model(outside(place, tmp_path, 1.0).read_bytes())


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x08"])
def test_what_is_no_model(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    for given in (data, tmp_path / "m.onnx"):
        with pytest.raises(LoadError, match="not an ONNX file"):
            read_model(given)
    with pytest.raises(LoadError, match="there is no file"):
        read_model(tmp_path / "none.onnx")


def test_a_file_beyond_protobuf_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # a hole: it takes no room
    with pytest.raises(LoadError, match="larger than an ONNX file can be"):
        read_model(path)
