"""Convolution and activation as one operator of a prepared model.

The weights and the pictures are small integers, so that every convolution is exact in float32 however it is summed: the
joined operator must then give the bits of the activation's own kernel on the file as it is, which other tests compare
with the formula.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from actswap.activations import get
from actswap.errors import ExportError
from actswap.onnx.export import export_onnx
from actswap.onnx.library import find_library, instruction_set
from actswap.onnx.prepare import open_prepared, prepare

pytestmark = [
    pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built"),
    pytest.mark.skipif(instruction_set() == "base", reason="the runtime's own convolutions are kept here"),
]
WIDTH, C = 24, 40  # two and three blocks of 16, three and five of 8, not all of them full
POINTWISE: dict[str, Any] = {"kernel_size": 1}
DEPTHWISE: dict[str, Any] = {"kernel_size": 3, "padding": 1}
SPATIAL: dict[str, Any] = {"kernel_size": 3, "padding": 1}
SIZES = [(1, 1), (2, 5), (7, 7), (14, 15), (29, 31)]
UNGATED = ["swish", "acon_b", "acon_c", "pau", "opau"]


def whole(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with whole numbers as weights."""
    for parameter in conv.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape).float()
    return conv


def activation(name: str, shared: bool = False) -> nn.Module:
    """With parameters that no plain operator has; x is some hundreds, for which beta is small."""
    module = get(name).build(1 if shared else C, 1)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape)
            parameter.copy_(noise - 4.0 if key == "log_beta" else parameter + noise)
    return module


class Net(nn.Module):
    """A stem, so that the data are in blocks; then one convolution with its activation."""

    def __init__(self, act: nn.Module, residual: bool = False, wide: int = WIDTH, **conv: Any) -> None:
        super().__init__()
        self.stem = whole(nn.Conv2d(3, wide, 3, padding=1))
        self.conv = whole(nn.Conv2d(wide, C, **conv))
        self.other = whole(nn.Conv2d(wide, C, 3, padding=1)) if residual else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        made = self.conv(x)
        return self.act(made if self.other is None else made + self.other(x))


def depthwise(act: nn.Module, **conv: Any) -> Net:
    return Net(act, wide=C, groups=C, **conv)


def picture(samples: int, size: tuple[int, int]) -> np.ndarray:
    return torch.randint(-3, 4, (samples, 3, *size)).float().numpy()


def exported(model: nn.Module, folder: Path) -> onnx.ModelProto:
    file = folder / "m.onnx"
    export_onnx(model.eval(), torch.randn(2, 3, 12, 12), file, simplify=False, check=False)
    return onnx.load(file)


def joined(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Convolution" for node in model.graph.node)


def native(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(find_library()))
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    if joined(model):
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def assert_joined(model: nn.Module, folder: Path, sizes: list[tuple[int, int]] | None = None) -> onnx.ModelProto:
    """One operator, whose results are those of two; a session sees several sizes, and no sample too."""
    source = exported(model, folder)
    found = prepare(source).model
    assert joined(found) == 1
    assert not any(node.op_type == "Conv" and node.domain for node in found.graph.node[1:])
    plain, ready = native(source), open_prepared(found.SerializeToString(), None)
    for size in sizes or SIZES:
        for samples in (1, 5, 0):
            x = picture(samples, size)
            np.testing.assert_array_equal(run(ready, x), run(plain, x), err_msg=f"{samples} x {size}")
    return found


@pytest.mark.parametrize("shared", [False, True], ids=["channel", "layer"])
@pytest.mark.parametrize("name", UNGATED)
def test_every_activation_after_a_convolution_of_one_by_one(name: str, shared: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_joined(Net(activation(name, shared), **POINTWISE), tmp_path)


@pytest.mark.parametrize("conv", [POINTWISE, SPATIAL, DEPTHWISE], ids=["pointwise", "spatial", "depthwise"])
@pytest.mark.parametrize("name", ["meta_acon", "dy_relu_a", "dy_relu_b"])
def test_gates_pool_what_the_convolution_makes(name: str, conv: dict[str, Any], tmp_path: Path) -> None:
    """The sum over the positions is exact too; the mean before a widening convolution is tests/onnx/test_means.py's."""
    torch.manual_seed(1)
    act = activation(name)
    model = depthwise(act, **conv) if conv is DEPTHWISE else Net(act, wide=C + 8, **conv)  # no widening
    assert_joined(model, tmp_path)


@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (3, 3)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (7, 4), (2, 3)], ids=str)
def test_depthwise_convolutions_of_every_shape(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], tmp_path: Path
) -> None:
    torch.manual_seed(2)
    sizes = [size for size in SIZES if all(s + 2 * p >= k for s, p, k in zip(size, padding, kernel, strict=True))]
    assert_joined(depthwise(activation("acon_c"), kernel_size=kernel, stride=stride, padding=padding), tmp_path, sizes)


@pytest.mark.parametrize("padding", [0, 1, (0, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_of_three_by_three(stride: int, padding: Any, tmp_path: Path) -> None:
    torch.manual_seed(9)
    sizes = [size for size in SIZES if min(size) > 2 or (padding == 1 and min(size) > 0)]
    model = Net(activation("acon_c"), kernel_size=3, stride=stride, padding=padding)
    assert_joined(model, tmp_path, [*sizes, (3, 70)])


def test_padding_on_one_side_alone(tmp_path: Path) -> None:
    """As TensorFlow's `same` does where the stride is 2."""
    torch.manual_seed(10)
    source = exported(Net(activation("acon_c"), kernel_size=3, stride=2, padding=1), tmp_path)
    node = [node for node in source.graph.node if node.op_type == "Conv"][1]
    next(a for a in node.attribute if a.name == "pads").ints[:] = [0, 0, 1, 1]
    found = prepare(source).model
    assert joined(found) == 1
    for size in ((2, 2), (8, 9), (29, 30)):
        x = picture(2, size)
        np.testing.assert_array_equal(run(open_prepared(found.SerializeToString(), None), x), run(native(source), x))


@pytest.mark.parametrize("name", ["acon_c", "meta_acon"])
def test_what_the_convolution_adds(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = exported(Net(activation(name), residual=True, wide=C + 8, **POINTWISE), tmp_path)
    found = prepare(source).model
    (node,) = [node for node in found.graph.node if node.op_type == "Convolution"]
    assert node.input[3]
    plain, ready = native(source), open_prepared(found.SerializeToString(), None)
    for size in SIZES:
        x = picture(3, size)
        np.testing.assert_array_equal(run(ready, x), run(plain, x))


@pytest.mark.parametrize(
    "conv", [POINTWISE, SPATIAL, {**DEPTHWISE, "groups": C}], ids=["pointwise", "spatial", "depthwise"]
)
def test_infinity_and_nan_go_no_further(conv: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(12)
    source = exported(Net(activation("acon_c"), wide=C, **conv), tmp_path)
    found = prepare(source).model
    assert joined(found) == 1
    x = picture(2, (14, 15))
    x[0, :, 0, 0], x[0, :, 7, 14], x[1, :, 5, 5] = np.inf, -np.inf, np.nan
    got, want = run(open_prepared(found.SerializeToString(), None), x), run(native(source), x)
    assert np.isnan(want).any() and np.isfinite(want).any()
    np.testing.assert_array_equal(got, want)


class Own(nn.Module):
    """Adds to a convolution what it reads: the result must not be written over it."""

    def __init__(self, **conv: Any) -> None:
        super().__init__()
        self.stem, self.conv = whole(nn.Conv2d(3, C, 3, padding=1)), whole(nn.Conv2d(C, C, **conv))
        self.act = activation("acon_c")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.act(self.conv(x) + x)


@pytest.mark.parametrize(
    "conv", [POINTWISE, SPATIAL, {**DEPTHWISE, "groups": C}], ids=["pointwise", "spatial", "depthwise"]
)
def test_what_is_added_may_be_what_is_read(conv: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(11)
    found = assert_joined(Own(**conv), tmp_path)
    (node,) = [node for node in found.graph.node if node.op_type == "Convolution"]
    assert node.input[3] == node.input[0]


def test_many_channels_are_summed_in_pieces(tmp_path: Path) -> None:
    """More inputs than the kernel takes at a time, more positions than a unit has."""
    torch.manual_seed(4)
    for conv in (POINTWISE, SPATIAL):
        assert_joined(Net(activation("acon_c"), wide=600, **conv), tmp_path, [(3, 3), (41, 29)])
        (tmp_path / "m.onnx").unlink()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = whole(nn.Conv2d(3, WIDTH, 3)), whole(nn.Conv2d(WIDTH, C, 1))
        self.act = activation("acon_c")

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv(self.stem(x))
        return self.act(made) * made


@pytest.mark.parametrize(
    "conv",
    [
        {"kernel_size": 5},
        {"kernel_size": 3, "stride": 3},
        {"kernel_size": 3, "padding": 2},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "groups": C, "wide": C, "dilation": 2},
        {"kernel_size": 9, "groups": C, "wide": C, "padding": 4},
    ],
    ids=["5x5", "leaps", "wide", "strided", "padded", "dilated", "far"],
)
def test_other_convolutions_stay_the_runtimes_own(conv: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = exported(Net(activation("acon_c"), **conv), tmp_path)
    found = prepare(source).model
    assert joined(found) == 0
    x = picture(2, (12, 13))
    np.testing.assert_array_equal(run(open_prepared(found.SerializeToString(), None), x), run(native(source), x))


def test_a_file_without_blocked_layout_is_not_prepared(tmp_path: Path) -> None:
    """The runtime leaves a grouped convolution as it is, so nothing of this file is in its blocked layout."""
    source = exported(Net(activation("acon_c"), kernel_size=1, groups=8), tmp_path)
    with pytest.raises(ExportError, match="stands in the blocked layout"):
        prepare(source)


@pytest.mark.parametrize("model", [Twice(), Net(activation("dy_relu_c"), **POINTWISE)], ids=["twice", "attention"])
def test_what_is_read_twice_or_needs_all_channels_first_stays(model: nn.Module, tmp_path: Path) -> None:
    assert joined(prepare(exported(model, tmp_path)).model) == 0


def test_the_bits_do_not_depend_on_the_threads(tmp_path: Path) -> None:
    torch.manual_seed(6)
    for model in (Net(activation("meta_acon"), **SPATIAL), depthwise(activation("pau"), **DEPTHWISE)):
        found = prepare(exported(model, tmp_path)).model
        (tmp_path / "m.onnx").unlink()
        x = torch.randn(2, 3, 63, 65).numpy()
        np.testing.assert_array_equal(run(native(found, 1), x), run(native(found, 3), x))


RUN = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.register_custom_ops_library(sys.argv[1])
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
np.save(sys.argv[4], session.run(None, {session.get_inputs()[0].name: np.load(sys.argv[3])})[0])
"""


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_a_file_of_wider_vectors_runs_on_narrower_ones(isa: str, tmp_path: Path) -> None:
    """Blocks of two or four vectors; each side's activation errs by at most 5e-6 (tests/native/test_kernels.py)."""
    torch.manual_seed(7)
    acts = [activation("acon_c") for _ in range(3)]
    for model in (
        Net(acts[0], residual=True, **POINTWISE),
        Net(acts[1], kernel_size=3, stride=2, padding=1),
        depthwise(acts[2], **DEPTHWISE),
    ):
        source = exported(model, tmp_path)
        (tmp_path / "m.onnx").unlink()
        found, x, y = prepare(source).model, tmp_path / "x.npy", tmp_path / "y.npy"
        assert joined(found) == 1
        onnx.save(found, tmp_path / "p.onnx")
        np.save(x, picture(2, (14, 15)))
        command = [sys.executable, "-c", RUN, str(find_library()), str(tmp_path / "p.onnx"), str(x), str(y)]
        subprocess.run(command, env={**os.environ, "ACTSWAP_ISA": isa}, check=True)
        want = run(native(source), np.load(x))
        assert np.abs(np.load(y) - want).max() <= 1e-5 * np.abs(want).max()


def test_bad_nodes_are_refused_in_words(tmp_path: Path) -> None:
    torch.manual_seed(8)
    found = prepare(exported(Net(activation("acon_c"), **POINTWISE), tmp_path)).model
    node = next(node for node in found.graph.node if node.op_type == "Convolution")
    place = next(k for k, a in enumerate(node.attribute) if a.name == "activation")
    for name in ("Unknown", "DyReLUC", "Convolution"):
        node.attribute[place].CopyFrom(helper.make_attribute("activation", name))
        with pytest.raises(Exception, match="cannot have this activation"):
            native(found)
    node.attribute[place].CopyFrom(helper.make_attribute("activation", "AconC"))
    narrower = onnx.ModelProto()
    narrower.CopyFrom(found)
    weight = next(t for t in narrower.graph.initializer if t.name == node.input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[:, :16].copy(), weight.name))
    with pytest.raises(Exception, match="does not suit the weights"):
        run(native(narrower), picture(1, (4, 4)))
    pads = next(a for a in node.attribute if a.name == "pads")
    pads.ints[0] = -1
    with pytest.raises(Exception, match="do not fit together"):
        native(found)
