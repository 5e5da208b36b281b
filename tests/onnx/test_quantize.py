"""`quantize`: what it refuses, and the runtime's other quantiser."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from actswap.activations import SPECS
from actswap.errors import FileError, UsageError
from actswap.onnx.export import export_onnx
from actswap.onnx.quantize import quantize
from actswap.onnx.runtime import cpu_session


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("quantize")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), SPECS["acon_c"].build(4, 1), nn.Conv2d(4, 4, 1))
    x = torch.randn(4, 3, 8, 8)
    export_onnx(model.eval(), x, folder / "m.onnx", simplify=False, dynamic_size=False)
    return folder / "m.onnx"


def test_what_does_not_fit_is_refused_in_words(file, tmp_path):
    x = np.zeros((1, 3, 8, 8), np.float32)
    with pytest.raises(UsageError, match="calibration does not fit") as caught:
        quantize(file, tmp_path / "q.onnx", [{"image": x}])
    assert "input" in caught.value.why
    with pytest.raises(UsageError, match="no calibration"):
        quantize(file, tmp_path / "q.onnx", [])
    with pytest.raises(UsageError, match="method"):
        quantize(file, tmp_path / "q.onnx", [{"input": x}], method="best")
    (tmp_path / "old.onnx").write_bytes(b"old")
    with pytest.raises(FileError):
        quantize(file, tmp_path / "old.onnx", [{"input": x}])
    quantize(file, tmp_path / "new.onnx", [{"input": x}])
    with pytest.raises(UsageError, match="quantised already"):
        quantize(tmp_path / "new.onnx", tmp_path / "q.onnx", [{"input": x}])
    assert not (tmp_path / "q.onnx").exists()


def test_shapes_of_weights_are_not_told_twice(file):
    """Entries for initializers among the value_info make `quantize_dynamic` fail on a Gemm."""
    model = onnx.load(file)
    assert not {v.name for v in model.graph.value_info} & {t.name for t in model.graph.initializer}


@pytest.mark.parametrize("target", ["acon_c", "meta_acon"])
def test_the_runtimes_dynamic_quantiser_takes_a_network_with_a_linear_layer(target, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), SPECS[target].build(8, -1), nn.Linear(8, 4)).eval()
    x = torch.randn(3, 6)
    export_onnx(model, x, tmp_path / "m.onnx", simplify=False)
    quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
    want = model(x).detach().numpy()
    got = cpu_session(tmp_path / "q.onnx").run(None, {"input": x.numpy()})[0]
    assert np.abs(got - want).max() <= 2 / 255 * 2 * np.abs(want).max() * 3  # steps of 8 bits in two layers


def test_without_tables_activations_stay_in_float32(file, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    report = quantize(file, tmp_path / "q.onnx", [{"input": x}], tables=False)
    assert report.tables == () and list(report.left.values()) == ["no tables were asked for"]
    assert [n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node if n.domain == "actswap"] == ["AconC"]
