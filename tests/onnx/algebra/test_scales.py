"""Kernels take caps and scales back, to the values of the file as exported."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from algebra_nets import Pair, X, acon, convs, run
from torch import nn

from actswap.activations.bounded import Bounded
from actswap.onnx.export import export_onnx
from actswap.onnx.library import find_library
from actswap.onnx.prepare import open_prepared, prepare


@pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")
@pytest.mark.parametrize("values", [{"p1": 0.8, "p2": 0.2, "log_beta": 1.0}, {}])
def test_kernels_take_caps_and_scales_back(values: dict[str, float], tmp_path: Path) -> None:
    first, last = convs()
    model = Pair(first, Bounded(acon(**values), 0.0, 0.3), nn.Sequential(nn.Tanh(), last)).eval()
    report = export_onnx(model, 4 * X, tmp_path / "m.onnx", dynamic_size=False)
    assert report.simplified or values
    found = prepare(onnx.load(tmp_path / "m.onnx"))
    nodes = [node.op_type for node in found.model.graph.node]
    assert found.blocked == 1 and "Clip" not in nodes and nodes.count("Conv") == 2
    session = open_prepared(found.model.SerializeToString(), None)
    got, want = session.run(None, {"x": 4 * X.numpy()})[0], run(tmp_path / "m.onnx", 4 * X)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
