"""torch's own exporters take a converted model: a toolkit that calls them need not know of actswap."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

import actswap

pytestmark = [  # of torch, about itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.mark.parametrize("dynamo", [True, False])
def test_torch_onnx_export(dynamo, small, image, tmp_path):
    model = actswap.convert(small, "meta_acon", image).model.eval()
    more = {"custom_translation_table": actswap.onnx.translation_table(), "verbose": False} if dynamo else {}
    torch.onnx.export(model, (image,), tmp_path / "out.onnx", dynamo=dynamo, **more)
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    with torch.no_grad():
        expected = model(image).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected)  # as export_onnx promises


@pytest.mark.parametrize("target", ["acon_c", "meta_acon", "dy_relu_b", "pau", "swish"])
def test_a_traced_model_holds_no_operator_of_actswap(target, small, image):
    model = actswap.convert(small, target, image, start="morph").model.eval()
    for module in model.modules():
        if hasattr(module, "t"):
            module.t = 0.5
    traced = torch.jit.trace(model, (image,))
    assert "actswap::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(image), model(image), rtol=1e-4, atol=1e-5)


def test_a_traced_file_runs_in_a_process_without_actswap(small, image, tmp_path):
    model = actswap.convert(small, "acon_c", image).model.eval()
    torch.jit.trace(model, (image,)).save(tmp_path / "model.pt")
    program = f"import sys, torch; m = torch.jit.load({str(tmp_path / 'model.pt')!r}); "
    program += "print(tuple(m(torch.zeros(2, 3, 12, 12)).shape), 'actswap' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 5) False", done.stderr
