"""convert() on ONNX files: what is recognised, what is left, and that the network still computes what it did."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from actswap.errors import FileError, LoadError, UsageError, VerificationError
from actswap.onnx.conversion import convert
from actswap.onnx.forms import find_sites

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
FORMS = {
    "relu": "y = Relu (x)",
    "relu6": "lo = Constant <value_float = 0.0> ()\n hi = Constant <value_float = 6.0> ()\n y = Clip (x, lo, hi)",
    "hardtanh": "lo = Constant <value_float = -0.5> ()\n hi = Constant <value_float = 2.0> ()\n y = Clip (x, lo, hi)",
    "leaky_relu": "y = LeakyRelu <alpha = 0.2> (x)",
    "silu": "s = Sigmoid (x)\n y = Mul (s, x)",
    "swish": "b = Constant <value_float = 1.5> ()\n z = Mul (b, x)\n s = Sigmoid (z)\n y = Mul (x, s)",
    "gelu": """r = Constant <value_float = 1.4142135> ()\n one = Constant <value_float = 1.0> ()
        half = Constant <value_float = 0.5> ()\n q = Div (x, r)\n e = Erf (q)\n p = Add (e, one)
        m = Mul (x, p)\n y = Mul (m, half)""",
    "gelu_tanh": """k = Constant <value_float = 0.044715> ()\n c = Constant <value_float = 0.7978846> ()
        one = Constant <value_float = 1.0> ()\n half = Constant <value_float = 0.5> ()\n x2 = Mul (x, x)
        x3 = Mul (x2, x)\n k3 = Mul (x3, k)\n i = Add (x, k3)\n ci = Mul (i, c)\n t = Tanh (ci)
        p = Add (t, one)\n h = Mul (x, half)\n y = Mul (h, p)""",
    "elu": "y = Elu <alpha = 0.7> (x)",
    "selu": "y = Selu (x)",
    "mish": "s = Softplus (x)\n t = Tanh (s)\n y = Mul (x, t)",
    "tanhexp": "e = Exp (x)\n t = Tanh (e)\n y = Mul (t, x)",
    "relu2": "r = Relu (x)\n y = Mul (r, r)",
    "snake": """a = Constant <value_float = 1.5> ()\n z = Mul (a, x)\n s = Sin (z)\n q = Mul (s, s)
        d = Div (q, a)\n y = Add (x, d)""",
    "hardswish": "y = HardSwish (x)",
    "hardswish_sigmoid": "h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)\n y = Mul (x, h)",
    "hardswish_clip": """three = Constant <value_float = 3.0> ()\n zero = Constant <value_float = 0.0> ()
        six = Constant <value_float = 6.0> ()\n a = Add (x, three)\n c = Clip (a, zero, six)\n m = Mul (x, c)
        y = Div (m, six)""",
}


def graph(body: str) -> onnx.ModelProto:
    model = parser.parse_model(f"{HEAD} g (float[N, 4, H] x) => (float[N, 4, H] y) {{ {body} }}")
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("form", sorted(FORMS))
def test_forms_are_recognised_by_what_they_compute(form: str) -> None:
    sites, _ = find_sites(graph(FORMS[form]))
    assert [(site.source.kind, site.x, site.y) for site in sites] == [
        (form.removesuffix("_sigmoid").removesuffix("_clip"), "x", "y")
    ]
    if form == "swish":
        assert sites[0].source.get("beta") == pytest.approx(1.5, rel=1e-5)


def test_prelu_with_channels_and_what_is_left() -> None:
    model = parser.parse_model(f"{HEAD} g (float[N, 4, H] x) => (float[N, 4, H] y) {{ y = PRelu (x, w) }}")
    slopes = np.array([[0.1], [1.3], [-0.2], [0.0]], np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(slopes, "w"))
    (site,), left = find_sites(model)
    assert site.source.get("slope") == pytest.approx((0.1, 1.3, -0.2, 0.0)) and left == {}
    sites, left = find_sites(graph("s = Sigmoid (x)\n t = Tanh (x)\n y = Mul (s, t)"))
    assert sites == [] and list(left.values()) == ["a gate, or an output"]
    sites, _ = find_sites(graph("s = Sigmoid (x)\n m = Mul (s, x)\n y = Add (m, s)"))  # s is used elsewhere
    assert sites == []


@pytest.mark.parametrize(("form", "target"), [("relu", "acon_c"), ("hardtanh", "acon_c"), ("silu", "swish")])
def test_the_file_computes_what_it_did(form: str, target: str, tmp_path: Path) -> None:
    model = graph(f"{FORMS[form]}")
    onnx.save(model, tmp_path / "a.onnx")
    x = np.random.default_rng(1).standard_normal((3, 4, 50)).astype(np.float32) * 3
    report = convert(tmp_path / "a.onnx", target, tmp_path / "b.onnx", calibration=[{"x": x}])
    assert len(report.replaced) == 1 and report.parity[0].relative <= 1e-3
    assert json.loads(json.dumps(report.to_dict()))["target"] == target
    onnx.checker.check_model(onnx.load(tmp_path / "b.onnx"), full_check=True)
    providers = ["CPUExecutionProvider"]
    a, b = (
        ort.InferenceSession(tmp_path / n, providers=providers).run(None, {"x": x})[0] for n in ("a.onnx", "b.onnx")
    )
    assert np.abs(a - b).max() <= 1e-3 * np.abs(a).max()
    assert "Relu" not in {node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node}


def test_a_site_whose_fit_changes_the_network_stays(tmp_path: Path) -> None:
    onnx.save(graph(FORMS["gelu"].replace("y = Mul", "g = Mul") + "\n y = Relu (g)"), tmp_path / "a.onnx")
    report = convert(tmp_path / "a.onnx", "acon_c", tmp_path / "b.onnx", tolerance=1e-3)
    assert [row[1] for row in report.replaced] == ["relu"]
    assert any("would change the network" in why for why in report.left.values())


def test_the_good_fits_stay_where_others_do_not(tmp_path: Path) -> None:
    """A ReLU is no rational function, SiLU nearly is."""
    silus = "s = Sigmoid (r)\n g = Mul (s, r)\n t = Sigmoid (g)\n y = Mul (t, g)"
    onnx.save(graph(f"r = Relu (x)\n {silus}"), tmp_path / "a.onnx")
    report = convert(tmp_path / "a.onnx", "pau", tmp_path / "b.onnx", tolerance=1e-3)
    assert [row[1] for row in report.replaced] == ["silu", "silu"]
    (why,) = report.left.values()  # what an earlier attempt refused and the last one took is not left
    assert "would change the network" in why


def test_what_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(graph(FORMS["relu"]), tmp_path / "a.onnx")
    onnx.save(graph("y = Neg (x)"), tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(LoadError, match="not an ONNX file"):
        convert(tmp_path / "bad.onnx", "acon_c", tmp_path / "b.onnx")
    with pytest.raises(UsageError, match="nothing to replace"):
        convert(tmp_path / "none.onnx", "acon_c", tmp_path / "b.onnx")
    with pytest.raises(UsageError, match="there is no activation"):
        convert(tmp_path / "a.onnx", "acon_x", tmp_path / "b.onnx")
    with pytest.raises(FileError, match="exists"):
        convert(tmp_path / "a.onnx", "acon_c", tmp_path / "none.onnx")
    monkeypatch.setattr("actswap.onnx.conversion._SHARPNESS", (10.0,))
    with pytest.raises(VerificationError, match="does not preserve"):
        convert(tmp_path / "a.onnx", "acon_c", tmp_path / "b.onnx", tolerance=1e-9)
    assert not (tmp_path / "b.onnx").exists()


def made(body: str, inputs: str) -> onnx.ModelProto:
    return parser.parse_model(f"{HEAD} g ({inputs}) => (float[N, 4] y) {{ {body} }}")


def test_made_up_inputs_must_show_something(tmp_path: Path) -> None:
    """With random limits the output is NaN whatever goes in; then inputs are asked for, not agreement claimed."""
    body = "r = Relu (x)\n z = Sub (r, r)\n y = Div (z, z)"
    onnx.save(made(body, "float[N, 4] x"), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="no inputs can be made up") as caught:
        convert(tmp_path / "m.onnx", "acon_c", tmp_path / "n.onnx")
    assert "do not depend" in caught.value.why and not (tmp_path / "n.onnx").exists()


def test_numbers_are_made_up_so_that_the_outputs_show_something(tmp_path: Path) -> None:
    """sqrt(high - low) is NaN for the first, random numbers here; 10 and 1000 are tried next."""
    body = "r = Relu (x)\n d = Sub (high, low)\n t = Constant <value_float = 900.0> ()\n e = Sub (d, t)\n"
    body += " s = Sqrt (e)\n y = Mul (r, s)"
    onnx.save(made(body, "float[N, 4] x, float low, float high"), tmp_path / "m.onnx")
    report = convert(tmp_path / "m.onnx", "acon_c", tmp_path / "n.onnx")
    assert 0 < report.parity[0].relative <= 1e-3


def test_bodies_are_seen(tmp_path: Path) -> None:
    """Activations of local functions are replaced; those of If are named."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        g (float[N, 4, H] x, bool c) => (float[N, 4, H] y) {
            a = mine.Block (x)
            y = If (c) <then_branch = one () => (float[N, 4, H] t) { t = Relu (a) },
                        else_branch = two () => (float[N, 4, H] e) { s = Sigmoid (a)  e = Mul (a, s) }>
        }
        <domain: "mine", opset_import: ["" : 17]> Block (x) => (y) { y = Relu (x) }""")
    onnx.save(model, tmp_path / "m.onnx")
    report = convert(tmp_path / "m.onnx", "acon_c", tmp_path / "n.onnx")
    assert [source for _, source, _, _ in report.replaced] == ["relu"]
    kept = [reason for reason in report.left.values() if "body of If" in reason]
    assert len(kept) == 2 and any("silu is kept" in reason for reason in kept)


def test_a_value_that_a_body_reads_is_no_inside_of_a_formula(tmp_path: Path) -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4, H] x, bool c) => (float[N, 4, H] y, float[N, 4, H] z) {
            s = Sigmoid (x)
            y = Mul (x, s)
            z = If (c) <then_branch = one () => (float[N, 4, H] t) { t = Identity (s) },
                        else_branch = two () => (float[N, 4, H] e) { e = Neg (s) }>
        }""")
    sites, left = find_sites(model)
    assert sites == [] and list(left.values()) == ["a gate, or an output"]


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ("y = com.microsoft.Gelu (x)", "gelu"),
        ("y = com.microsoft.FastGelu (x)", "gelu_tanh"),
        ("y = com.microsoft.QuickGelu <alpha = 1.702> (x)", "quick_gelu"),
        ("y = com.microsoft.BiasGelu (x, b)", "gelu"),
        ("y = com.microsoft.FastGelu (x, b)", "gelu_tanh"),
    ],
)
def test_operators_of_the_runtimes_own_domain(node: str, kind: str, tmp_path: Path) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
    model = parser.parse_model(f"{head} g (float[N, 4] x) => (float[N, 4] y) {{ {node} }}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0.5, -1, 2, 0], np.float32), "b"))
    onnx.save(model, tmp_path / "m.onnx")
    report = convert(tmp_path / "m.onnx", "pau", tmp_path / "n.onnx", tolerance=0.1)
    assert [source for _, source, _, _ in report.replaced] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "s = Softplus (x)\n t = Tanh (s)\n y = Mul (t, x)",
        "e = Exp (x)\n o = Constant <value_float = 1.0> ()\n p = Add (e, o)\n l = Log (p)\n"
        " t = Tanh (l)\n y = Mul (x, t)",
    ],
)
def test_mish_by_its_steps(text: str) -> None:
    assert [site.source.kind for site in find_sites(graph(text))[0]] == ["mish"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_weights_of_a_large_file_stay_beside_it(elsewhere: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("actswap.onnx.conversion._LARGEST", 100)
    model = parser.parse_model(f"{HEAD} g (float[N, 40] x) => (float[N, 40] y) {{ a = MatMul (x, w)\n y = Relu (a) }}")
    weight = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    target = tmp_path / "other" / "n.onnx" if elsewhere else tmp_path / "n.onnx"
    target.parent.mkdir(exist_ok=True)
    report = convert(tmp_path / "m.onnx", "acon_c", target)
    assert len(report.replaced) == 1
    assert sorted(p.name for p in target.parent.glob("*.data")) == (["n.onnx.0.data"] if elsewhere else ["m.data"])
    x = np.ones((2, 40), np.float32)
    (got,) = ort.InferenceSession(target, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.abs(got - np.maximum(x @ weight, 0)).max() <= 1e-3 * np.abs(got).max(), "the tolerance of the start"
