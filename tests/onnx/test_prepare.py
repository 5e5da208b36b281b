"""Preparing a file: what stays blocked, and what is refused in words."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from actswap.activations.acon_c import AconC
from actswap.errors import ExportError
from actswap.onnx.export import export_onnx
from actswap.onnx.library import find_library
from actswap.onnx.prepare import KEY, open_prepared, prepare
from actswap.onnx.runtime import cpu_session

pytestmark = pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")


@pytest.fixture(scope="module")
def portable(tmp_path_factory) -> onnx.ModelProto:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), AconC(12), nn.Conv2d(12, 5, 3)).eval()
    file = tmp_path_factory.mktemp("prepare") / "m.onnx"
    export_onnx(model, torch.randn(2, 3, 9, 9), file, simplify=False)
    return onnx.load(file)


def test_the_prepared_model_is_marked_and_computes_the_same(portable):
    before = portable.SerializeToString(deterministic=True)
    found = prepare(portable)
    assert (found.activations, found.blocked) == (1, 1)
    assert KEY in {entry.key for entry in found.model.metadata_props}
    assert portable.SerializeToString(deterministic=True) == before, "the source is not changed"
    x = np.random.default_rng(0).standard_normal((4, 3, 11, 9)).astype(np.float32)
    got = open_prepared(found.model.SerializeToString(), None).run(None, {"input": x})[0]
    want = cpu_session(portable).run(None, {"input": x})[0]
    # Sums of 108 products in another order, on values of the size of the output.
    np.testing.assert_allclose(got, want, rtol=0, atol=108 * 2**-23 * np.abs(want).max())


def test_a_file_without_activations_between_convolutions_is_refused(portable):
    other = onnx.ModelProto()
    other.CopyFrom(portable)
    for node in other.graph.node:
        if node.op_type not in ("Conv",):
            node.CopyFrom(onnx.helper.make_node("Relu", node.input[:1], node.output))
    with pytest.raises(ExportError, match="no activation of this file"):
        prepare(other)
