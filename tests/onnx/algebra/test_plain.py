"""An activation that has become a plain operator is written as that operator."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from algebra_nets import C, Pair, X, acon, both, convs
from torch import nn

from actswap.activations.bounded import Bounded
from actswap.onnx.algebra.plain import closeness, ranges, write_plain
from actswap.onnx.finalize import body
from actswap.onnx.functions import ACON_C, DOMAIN


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
