"""`decompositions`: every activation as operators of PyTorch, in every tool that takes such a table."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import actswap
from actswap.activations import TRAINABLE

C = 6
AUTO = torch.export.Dim.AUTO


def net(name: str) -> nn.Module:
    """Two convolutions with the activation between them, its parameters moved."""
    torch.manual_seed(0)
    spec = next(spec for spec in TRAINABLE if spec.name == name)
    model = nn.Sequential(nn.Conv2d(3, C, 3), spec.build(C, 1), nn.Conv2d(C, 4, 1)).eval()
    with torch.no_grad():
        for parameter in model[1].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def rounding(want: torch.Tensor) -> float:
    # Sums of 27 and 6 products, an activation of 30 operations, a few of them divisions.
    return 100 * 2**-23 * float(want.detach().abs().max())


# raised by torch.export itself
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.mark.parametrize("name", [spec.name for spec in TRAINABLE])
def test_only_operators_of_pytorch_are_left(name):
    model, x = net(name), torch.randn(2, 3, 8, 9)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: AUTO, 2: AUTO, 3: AUTO},))
    plain = program.run_decompositions(actswap.decompositions())
    called = {str(node.target) for node in plain.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in")) for name in called), called
    assert not any("isinf" in name for name in called), "Core ML has none"
    other = torch.randn(5, 3, 11, 7)
    want = model(other).detach()
    assert (plain.module()(other) - want).abs().max() <= rounding(want)


@pytest.mark.parametrize("name", ["meta_acon", "pau"])
def test_torchs_own_onnx_exporter_takes_a_model_apart(name, tmp_path):
    model, x = net(name), torch.randn(2, 3, 8, 9)
    torch.onnx.export(model, (x,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    want = model(x).detach()
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=rounding(want))


def test_what_torch_knows_of_the_operators_leaves_them_whole():
    """torch.export and fake tensors with symbolic sizes see one node, and the layout that the shape rule promises."""
    model, x = net("acon_c"), torch.randn(2, 3, 8, 9).to(memory_format=torch.channels_last)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: AUTO, 2: AUTO},))
    (node,) = (n for n in program.run_decompositions().graph.nodes if "actswap" in str(n.target))
    assert node.meta["val"].is_contiguous(memory_format=torch.channels_last)


def test_another_thread_keeps_the_limits():
    """Finite x is assumed while a decomposition runs, not afterwards."""
    x = torch.tensor([float("inf"), -float("inf")])
    table, beta = actswap.decompositions(), torch.ones(1)
    assert table[torch.ops.actswap.swish.default](x, beta, 0).isnan().any()
    assert torch.ops.actswap.swish(x, beta, 0).tolist() == [float("inf"), 0.0]
