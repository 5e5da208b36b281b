"""A prepared file says what it was prepared for; the kernels compare that before anything else."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper
from torch import nn

from actswap.activations import get
from actswap.onnx.export import export_onnx
from actswap.onnx.library import find_library, register
from actswap.onnx.machine import machine_key, prepared_for, suits_this_machine
from actswap.onnx.prepare import open_prepared, prepare

pytestmark = pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> onnx.ModelProto:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), get("acon_c").build(16, 1), nn.Conv2d(16, 16, 1), get("meta_acon").build(16, 1)]
    path = tmp_path_factory.mktemp("machine") / "net.onnx"
    export_onnx(nn.Sequential(*layers, nn.Conv2d(16, 4, 1)).eval(), torch.randn(1, 3, 12, 12), path)
    return prepare(onnx.load(path)).model


def retold(model: onnx.ModelProto, text: str | None) -> bytes:
    """Return the model with another `prepared_for`, or with none, as files of earlier versions."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for node in found.graph.node:
        if node.domain != "actswap":
            continue
        kept = [a for a in node.attribute if a.name != "prepared_for"]
        assert len(kept) == len(node.attribute) - 1
        del node.attribute[:]
        node.attribute.extend(kept if text is None else [*kept, helper.make_attribute("prepared_for", text)])
    return found.SerializeToString()


@pytest.mark.parametrize("text", ["onnxruntime 1.0.0, kernels 1", "", "x" * 1000])
def test_a_file_for_another_version_is_refused_in_words(prepared, text):
    with pytest.raises(Exception, match=r"prepared_for|was prepared for"):
        open_prepared(retold(prepared, text), None)


def test_files_from_before_the_attribute_load(prepared):
    x = {"input": np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)}
    new, old = (open_prepared(data, None) for data in (prepared.SerializeToString(), retold(prepared, None)))
    x = {new.get_inputs()[0].name: x["input"]}
    assert np.array_equal(new.run(None, x)[0], old.run(None, x)[0])
    assert prepared_for().startswith(f"onnxruntime {ort.__version__}")


def test_another_build_of_the_library_suits_and_another_runtime_does_not():
    key = machine_key()
    library = key[key.index("library ") :].split(" of")[0]
    assert suits_this_machine(key.replace(library, "library 0123456789ab"))
    for wrong in (key.replace(ort.__version__, "1.0.0"), key.replace("of domain 1", "of domain 2"), "", "?"):
        assert not suits_this_machine(wrong)


def test_without_a_library_nothing_is_registered(monkeypatch):
    monkeypatch.setattr("actswap.onnx.library.find_library", lambda: None)
    assert "not built" in register(ort.SessionOptions())
