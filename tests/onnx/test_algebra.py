"""The passes of inference-time algebra: the values before and after, and nothing changed where a pattern does not hold.

Folding moves a constant of a channel from one factor of every product to another: three roundings of 2^-24 more per
layer, so two layers and an activation stay within 1e-6 of the largest output. A plain operator is within the tolerance
that it was chosen by.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from actswap.activations import get
from actswap.activations.bounded import Bounded
from actswap.onnx.algebra.caps import fuse_caps, lift_caps, sink_caps
from actswap.onnx.algebra.plain import closeness, ranges, write_plain
from actswap.onnx.algebra.scales import take_scales
from actswap.onnx.export import export_onnx
from actswap.onnx.finalize import attach, body
from actswap.onnx.functions import ACON_C, DOMAIN, SWISH_SKIP
from actswap.onnx.library import find_library
from actswap.onnx.prepare import open_prepared, prepare

C = 8
ROUNDING = 1e-6


def acon(name: str = "acon_c", seed: int = 1, **values: float) -> nn.Module:
    """An ACON whose parameters differ by channel, but for those given."""
    generator = torch.Generator().manual_seed(seed)
    module = get(name).build(C, 1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        for key, value in values.items():
            getattr(module, key).fill_(value)
    return module


class Pair(nn.Module):
    """A layer, an activation, and what reads it."""

    def __init__(self, before: nn.Module, activation: nn.Module, after: nn.Module, also: bool = False) -> None:
        super().__init__()
        self.before, self.activation, self.after, self.also = before, activation, after, also

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.before(x))
        return self.after(y).mean() + y if self.also else self.after(y)


def convs(**options: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 2 * C, 3, padding=1, **options)


X = torch.randn(2, 3, 9, 6, generator=torch.Generator().manual_seed(3))
V = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))


def run(path: Path, x: Tensor) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def both(model: nn.Module, x: Tensor, folder: Path) -> tuple[object, float]:
    """The report of the simplified file, and its largest error relative to the file as it is."""
    model.eval()
    report = export_onnx(model, x, folder / "simple.onnx", dynamic_size=False)
    plain = export_onnx(model, x, folder / "plain.onnx", dynamic_size=False, simplify=False)
    assert plain.simplified == {}
    got, want = run(folder / "simple.onnx", x), run(folder / "plain.onnx", x)
    return report, float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", ["acon_c", "acon_b", "swish"])
@pytest.mark.parametrize("groups", [1, C])
def test_scales_go_into_the_convolutions(name: str, groups: int, tmp_path: Path) -> None:
    before, after = convs(groups=groups)
    report, error = both(Pair(before, acon(name), after), X, tmp_path)
    assert list(report.simplified) == ["activation"] and error <= ROUNDING
    assert f"actswap.{'Swish' if name == 'swish' else 'SwishSkip'}" in report.operators
    assert report.operators["Conv"] == 2


def test_scales_go_into_linear_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pair(nn.Linear(3, C), acon(), nn.Linear(C, 4))
    report, error = both(model, V, tmp_path)
    assert list(report.simplified) == ["activation"] and error <= ROUNDING


@pytest.mark.parametrize("sharpness", [{"log_beta": 1.0}, {}])
def test_a_cap_stays_behind_a_convolution_that_scales_back(sharpness: dict[str, float], tmp_path: Path) -> None:
    before, after = convs()
    report, error = both(Pair(before, Bounded(acon(**sharpness), 0.0, 0.3), after), X, tmp_path)
    assert len(report.simplified) == 1 and report.operators["Conv"] == 3 and error <= ROUNDING


@pytest.mark.parametrize("sharpness", [{"log_beta": 1.0}, {}])
def test_a_cap_of_a_linear_layer_needs_one_sharpness(sharpness: dict[str, float], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pair(nn.Linear(3, C), Bounded(acon(**sharpness), 0.0, 0.3), nn.Linear(C, 4))
    report, error = both(model, V, tmp_path)
    assert len(report.simplified) == len(sharpness) and error <= ROUNDING


@pytest.mark.parametrize(("p1", "p2", "before"), [(1.0, 0.0, True), (0.8, 0.2, True), (1.0, -0.1, False)])
def test_a_cap_of_one_set_of_parameters_goes_before(p1: float, p2: float, before: bool, tmp_path: Path) -> None:
    """With a falling second line the cap is met on both sides, and stays behind."""
    first, last = convs()
    member = Bounded(acon(p1=p1, p2=p2, log_beta=1.0), 0.0, 0.3)
    report, error = both(Pair(first, member, nn.Sequential(nn.Tanh(), last)), 4 * X, tmp_path)
    assert error <= ROUNDING and report.operators["Clip"] == 1
    nodes = onnx.load(tmp_path / "simple.onnx").graph.node
    capped = next(node for node in nodes if node.domain == DOMAIN).input[0]
    assert (next(node for node in nodes if node.output[0] == capped).op_type == "Clip") == before


def test_caps_and_scales_pass_by_nodes_without_inputs() -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) {'
    model = onnx.parser.parse_model(f"{text} c = Constant <value_float = 2.0> ()\n y = Mul (x, c) }}")
    graph = ir.from_proto(model)
    assert lift_caps(graph) == () and sink_caps(graph) == 0 and take_scales(graph) == 0


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


@pytest.mark.parametrize("why", ["another reader", "no layer before", "no layer after", "slopes alike"])
def test_nothing_is_folded_where_the_pattern_does_not_hold(why: str, tmp_path: Path) -> None:
    before, after = convs()
    activation = acon(p1=0.5, p2=0.5) if why == "slopes alike" else acon()
    if why == "no layer before":
        before = nn.Sequential(before, nn.MaxPool2d(2))
    if why == "no layer after":
        after = nn.Sequential(nn.Tanh(), after)
    report, error = both(Pair(before, activation, after, also=why == "another reader"), X, tmp_path)
    assert "actswap.SwishSkip" not in report.operators and error <= 5e-5


@pytest.mark.parametrize(
    ("values", "operator", "text"),
    [
        ({"p1": 1.0, "p2": 0.0, "log_beta": 12.0}, "Relu", "relu"),
        ({"p1": 1.0, "p2": 0.1, "log_beta": 12.0}, "LeakyRelu", "leakyrelu 0.1"),
        ({"p1": 1.0, "log_beta": 12.0}, "PRelu", "prelu"),
        ({"p1": 1.0, "p2": 0.0, "log_beta": 0.0}, "Sigmoid", "x sigmoid(1 x)"),
        ({"p1": 1.0, "p2": 0.0, "log_beta": float(np.log(1.702))}, "Sigmoid", "x sigmoid(1.702 x)"),
        ({"p1": 0.7, "p2": 0.2}, None, ""),
    ],
)
def test_what_has_become_plain_is_written_plain(
    values: dict[str, float], operator: str | None, text: str, tmp_path: Path
) -> None:
    before, after = convs()
    report, error = both(Pair(before, acon(**values), nn.Sequential(nn.Tanh(), after)), X, tmp_path)
    if operator is None:
        assert report.simplified == {} and error == 0
        return
    assert operator in report.operators and report.simplified["activation"].startswith(text) and error <= 5e-5
    proto = onnx.load(tmp_path / "simple.onnx")
    assert not [node for node in proto.graph.node if node.domain == DOMAIN] and not proto.functions


def test_a_capped_relu_becomes_one_clip(tmp_path: Path) -> None:
    before, after = convs()
    model = Pair(before, Bounded(acon(p1=1.0, p2=0.0, log_beta=12.0), 0.0, 0.4), after)
    report, error = both(model, X, tmp_path)
    assert report.operators["Clip"] == 1 and "Relu" not in report.operators and error <= 5e-5


@pytest.mark.parametrize(
    ("p2", "low", "plain"),
    [
        (1e-5, -1.0, {"one": "relu"}),  # 160 of that slope are 1.6e-3 beside a largest value of 10
        (1e-3, -1.0, {}),
        (0.25, 0.5, {}),  # a run without negative inputs must not make it an identity
    ],
)
def test_what_one_run_shows_gives_the_scale_and_no_more(p2: float, low: float, plain: dict[str, str]) -> None:
    parameters = {"p1": 1.0, "p2": p2, "beta": 1e5}
    graph = f"g (float[1,{C},H,W] x, float[{C},1,1] p1, float[{C},1,1] p2, float[{C},1,1] beta) => (float[1,{C},H,W] y)"
    head = f'<ir_version: 10, opset_import: ["" : 18, "{DOMAIN}" : 1]>'
    proto = onnx.parser.parse_model(f"{head} {graph} {{ [one] y = {DOMAIN}.AconC (x, p1, p2, beta) }}")
    del proto.graph.input[1:]
    for name, value in parameters.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((C, 1, 1), value, np.float32), name))
    model = ir.from_proto(proto)
    seen = {"one": ranges(np.broadcast_to(np.array([low, 10.0]).reshape(1, 1, 2, 1), (1, C, 2, 1)), -3)}
    close = [c for c in closeness(model, seen, [body(ACON_C, 18)])["one"] if c.plain.op in ("Relu", "Identity")]
    assert write_plain(model, {"one": close}, 1e-3) == plain


@pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")
def test_a_fused_cap_has_the_same_bits(tmp_path: Path) -> None:
    before, after = convs()
    export_onnx(Pair(before, Bounded(acon(), 0.0, 0.3), after).eval(), X, tmp_path / "m.onnx", simplify=False)
    model = ir.load(tmp_path / "m.onnx")
    assert fuse_caps(model) == 1 and not [node for node in model.graph if node.op_type == "Clip"]
    x = X.clone()
    x[0, 0, 0, 0] = float("nan")
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(find_library()))
    results = []
    for proto in (ir.to_proto(model), onnx.load(tmp_path / "m.onnx")):
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    assert np.isnan(results[0]).any()
    np.testing.assert_array_equal(*results)


def test_a_cap_that_others_see_stays(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.activation = convs()[0], acon()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.activation(self.conv(x))
            return torch.clamp(y, max=0.3), y

    export_onnx(Two().eval(), X, tmp_path / "m.onnx", simplify=False)
    assert fuse_caps(ir.load(tmp_path / "m.onnx")) == 0


@pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")
@pytest.mark.parametrize("shape", [(), (C, 1, 1)])
def test_the_kernel_of_the_folded_operator_is_its_body(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    arrays = {"beta": np.float32(1.5).reshape(()), "skip": random.standard_normal(shape).astype(np.float32)}
    names = list(SWISH_SKIP.inputs)
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, C, None, None]) for n in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(SWISH_SKIP.op, names, ["y"], domain=DOMAIN)],
        "one",
        ends[:1],
        ends[1:],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    attach(model, [SWISH_SKIP], 18)
    x = random.standard_normal((2, C, 5, 7)).astype(np.float32) * 4
    want = x / (1 + np.exp(-1.5 * x.astype(np.float64))) + arrays["skip"] * x
    for native in (False, True):
        options = ort.SessionOptions()
        if native:
            options.register_custom_ops_library(str(find_library()))
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"x": x})[0], want, rtol=0, atol=1e-6 * np.abs(want).max())
