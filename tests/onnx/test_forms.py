"""Activations of ONNX graphs are recognised by what their nodes compute; gates and leaks are left with reasons."""

from __future__ import annotations

import onnx
import pytest

from actswap.onnx.forms import GraphSite, find_sites


def sites(body: str, opset: int = 18) -> tuple[list[GraphSite], dict[str, str]]:
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> f (float[N,C] x) => (float[N,C] y) {{ {body} }}'
    return find_sites(onnx.parser.parse_model(text))


def only(body: str, opset: int = 18) -> str:
    found, left = sites(body, opset)
    assert len(found) == 1 and not left, (found, left)
    return str(found[0].source)


HALF, ONE, TWO = (f"c{name} = Constant <value_float = {value}> ()" for name, value in ((5, 0.5), (1, 1.0), (2, 2.0)))


@pytest.mark.parametrize(
    ("body", "source"),
    [
        ("y = Relu(x)", "relu"),
        ("y = LeakyRelu <alpha = 0.25> (x)", "leaky_relu(slope=0.25)"),
        ("y = Elu <alpha = 0.5> (x)", "elu(alpha=0.5)"),
        ("y = Selu(x)", "selu"),
        ("y = HardSwish(x)", "hardswish"),
        ("y = Mish(x)", "mish"),
        ("a = Sigmoid(x) y = Mul(x, a)", "silu"),
        ("a = Identity(x) b = Sigmoid(a) y = Mul(b, x)", "silu"),
        ("a = Neg(x) b = Sigmoid(a) y = Mul(x, b)", "swish(beta=-1)"),
        ("a = Softplus(x) b = Tanh(a) y = Mul(x, b)", "mish"),
        ("a = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul(x, a)", "hardswish"),
        (f"{HALF} {ONE} d = Constant <value_float = 0.70710677> () e = Mul(x, d) f = Erf(e) g = Add(f, c1) "
         "h = Mul(x, g) y = Mul(h, c5)", "gelu"),
        ("a = Constant <value_float = 0.0> () b = Constant <value_float = 6.0> () y = Clip(x, a, b)", "relu6"),
        ("a = Constant <value_float = -1.0> () b = Constant <value_float = 2.0> () y = Clip(x, a, b)",
         "hardtanh(high=2, low=-1)"),
        ("a = Constant <value_float = 0.0> () y = Clip(x, a)", "relu"),
        ("a = Constant <value = float[1] {0.2}> () y = PRelu(x, a)", "leaky_relu(slope=0.2)"),
    ],
)  # fmt: skip
def test_sources(body: str, source: str) -> None:
    assert only(body) == source


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_as_one_node(approximate: str) -> None:
    assert only(f'y = Gelu <approximate = "{approximate}"> (x)', 20) == (
        "gelu_tanh" if approximate == "tanh" else "gelu"
    )


def test_slopes_by_channel() -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> f (float[N,3,H,W] x) => (float[N,3,H,W] y) '
        "{ a = Constant <value = float[3,1,1] {0.1, 0.2, 0.3}> () y = PRelu(x, a) }"
    )
    ((site,), _) = find_sites(onnx.parser.parse_model(text))
    assert site.source.kind == "prelu" and site.source.get("slope") == pytest.approx((0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    "body",
    [
        "y = Sigmoid(x)",  # a gate, or an output
        "a = Sin(x) y = Mul(x, a)",
        f"{TWO} y = Mul(x, c2)",
        "y = Identity(x)",
        "a = Constant <value_float = -1.0> () y = Clip(x, a)",
    ],
)
def test_what_is_no_known_activation(body: str) -> None:
    assert sites(body)[0] == []


def test_a_value_that_is_read_elsewhere_keeps_its_formula_whole() -> None:
    """x * sigmoid(x) + sigmoid(x): the sigmoid is needed anyway, so nothing is replaced over it."""
    found, left = sites("a = Sigmoid(x) b = Mul(x, a) y = Add(b, a)")
    assert found == [] and list(left.values()) == ["a gate, or an output"]


def test_a_clip_that_gates_is_left_with_its_reason() -> None:
    found, left = sites(
        "a = Constant <value_float = 0.0> () b = Constant <value_float = 1.0> () "
        "c = Clip(x, a, b) d = Tanh(x) y = Mul(c, d)"
    )
    assert not found and "a gate: its result multiplies something else" in left.values()


def test_formulas_take_their_nodes_and_single_nodes_the_rest_in_the_order_of_the_graph() -> None:
    found, _ = sites("a = Relu(x) b = Sigmoid(a) c = Mul(a, b) y = Relu(c)")
    assert [(str(s.source), s.nodes) for s in found] == [("relu", (0,)), ("silu", (1, 2)), ("relu", (3,))]
    assert (found[1].x, found[1].y) == ("a", "c")
