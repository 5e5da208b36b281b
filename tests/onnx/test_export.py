"""export_onnx: every activation, layouts and sizes, what the file says, and what happens when it goes
wrong.
"""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from exported_nets import BY_LABEL, Everywhere, Net, act
from onnx_cases import C
from torch import Tensor, nn

import actswap
from actswap.activations import TRAINABLE
from actswap.errors import CaptureError, ExportError, FileError, UsageError
from actswap.onnx.export import export_onnx
from actswap.onnx.functions import DOMAIN
from actswap.onnx.runtime import cpu_session
from actswap.onnx.translate import lower_nodes


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(1)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_layouts_with_dynamic_batch_and_size(tmp_path: Path) -> None:
    model = Everywhere().train()
    report = export_onnx(model, torch.randn(1, 3, 9, 12), tmp_path / "m.onnx")
    assert model.training and model.picture.training
    assert report.inputs == {"x": ("batch", 3, "height", "width")}
    assert [p.name for p in report.parity] == ["map", "vector", "sequence"]
    assert all(p.relative <= 1e-4 for p in report.parity)
    assert [shapes[0] for shapes in report.checked] == [(1, 3, 9, 12), (3, 3, 9, 12), (2, 3, 41, 44)]
    assert report.operators["actswap.AconC"] == 3 and report.operators["actswap.MetaAcon"] == 4
    assert json.loads(json.dumps(report.to_dict()))["opset"] == 18
    assert names_in(tmp_path) == ["m.onnx"] and report.bytes == (tmp_path / "m.onnx").stat().st_size


def test_node_names_shapes_and_metadata(tmp_path: Path) -> None:
    model = Net(act("acon_c"), act("acon_c", shared=True))
    export_onnx(model, torch.randn(2, 3, 8, 8), tmp_path / "m.onnx", metadata={"actswap.plan": "abc"})
    proto = onnx.load(tmp_path / "m.onnx")
    nodes = [node for node in proto.graph.node if node.domain == DOMAIN]
    assert [node.name for node in nodes] == ["acts.0", "acts.1"]
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert arrays["acts.0.p1"].shape == (C, 1, 1) and arrays["acts.1.p1"].shape == ()
    assert {p.key: p.value for p in proto.metadata_props}["actswap.plan"] == "abc"
    text = (tmp_path / "m.onnx").read_bytes()
    assert str(Path(__file__).parent).encode() not in text and b"stack_trace" not in text


def test_the_file_names_the_plan_that_made_it(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 4)
    found = []
    for name, target in (("a", "acon_c"), ("b", "acon_c"), ("c", "swish")):
        export_onnx(actswap.convert(model, target, x).model, x, tmp_path / f"{name}.onnx", dynamic_size=False)
        props = {p.key: p.value for p in onnx.load(tmp_path / f"{name}.onnx").metadata_props}
        assert props["actswap.version"] == actswap.__version__
        found.append(props["actswap.plan"])
    assert found[0] == found[1] != found[2] and len(found[0]) == 16


def test_every_variant_of_every_operator(tmp_path: Path) -> None:
    bounded = [nn.Sequential(act(label), nn.Tanh()) for label in sorted(BY_LABEL)]
    report = export_onnx(Net(*bounded), torch.randn(2, 3, 7, 10), tmp_path / "m.onnx")
    nodes = {name: count for name, count in report.operators.items() if name.startswith("actswap.")}
    assert sum(nodes.values()) == len(BY_LABEL) and len(report.checked) == 4
    # variants are operators of their own: only the three spaces of meta-ACON, and PAU's forms B and D, share
    # one
    assert len(nodes) == len(BY_LABEL) - 3


def test_every_module_of_the_list(tmp_path: Path) -> None:
    modules = [nn.Sequential(spec.build(C, 1), nn.Tanh()) for spec in TRAINABLE]
    report = export_onnx(Net(*modules), torch.randn(2, 3, 7, 10), tmp_path / "m.onnx", simplify=False)
    nodes = [node for node in onnx.load(tmp_path / "m.onnx").graph.node if node.domain == DOMAIN]
    assert {node.name.split(".")[1] for node in nodes} >= {
        str(k) for k, spec in enumerate(TRAINABLE) if spec.name != "acon_frelu"
    }
    assert all(p.relative <= 1e-4 for p in report.parity)


@pytest.mark.parametrize("opset", [20, 25])
def test_newer_opsets(opset: int, tmp_path: Path) -> None:
    report = export_onnx(
        Net(act("acon_c"), act("dy_relu_c"), act("pau_A")),
        torch.randn(2, 3, 6, 6),
        tmp_path / "m.onnx",
        opset=opset,
    )
    assert report.opset == opset


def test_decomposed_file_has_standard_operators_and_runs_in_openvino(tmp_path: Path) -> None:
    model = Everywhere().eval()
    report = export_onnx(model, torch.randn(2, 3, 6, 6), tmp_path / "m.onnx", decompose=True)
    assert not [name for name in report.operators if "." in name]
    proto = onnx.load(tmp_path / "m.onnx")
    assert not proto.functions and {entry.domain for entry in proto.opset_import} <= {"", "ai.onnx"}
    openvino = pytest.importorskip("openvino")
    x = torch.randn(3, 3, 10, 8)
    core = openvino.Core()
    run = core.compile_model(core.read_model(tmp_path / "m.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    got = run({"x": x.numpy()})
    with torch.no_grad():
        for name, want in model(x).items():
            scale = want.abs().max().item()
            np.testing.assert_allclose(got[name], want.numpy(), rtol=0, atol=1e-4 * scale)


def test_half_precision(tmp_path: Path) -> None:
    report = export_onnx(Net(act("acon_c"), act("pau_A")), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx", half=True)
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(float16)" and report.parity[0].relative > 0


def test_fixed_batch_and_size(tmp_path: Path) -> None:
    model = Net(act("acon_c"))
    options = {"dynamic_batch": False, "dynamic_size": False}
    report = export_onnx(model, torch.randn(2, 3, 8, 8), tmp_path / "m.onnx", **options)
    assert report.inputs == {"x": (2, 3, 8, 8)} and len(report.checked) == 1


def test_a_size_that_the_model_fixes_stays_fixed(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, C, 3), act("acon_c"), nn.Flatten(), nn.Linear(C * 16, 4))
    report = export_onnx(model, torch.randn(2, 3, 6, 6), tmp_path / "m.onnx")
    assert report.inputs["input"] == ("batch", 3, 6, 6) and "takes no other" in report.notes[0]


def test_several_inputs_keyword_arguments_and_integers(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.act = nn.Embedding(11, C), act("acon_c", -1)

        def forward(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
            y = self.act(self.embedding(ids))
            return y, y if mask is None else y * mask[..., None]

    ids, mask = torch.randint(0, 11, (2, 6)), torch.ones(2, 6)
    report = export_onnx(Two(), (ids,), tmp_path / "m.onnx", example_kwargs={"mask": mask})
    assert list(report.inputs) == ["ids", "mask"] and report.inputs["ids"][0] == "batch"


def test_half_done_work_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: onnx.ModelProto) -> list[object]:
        functions = lower_nodes(model)
        for value in model.graph.initializers.values():
            if value.name.endswith(".p1"):
                value.const_value = onnx_tensor(value.const_value.numpy() * 1.01)
        return functions

    import onnx_ir

    onnx_tensor = onnx_ir.tensor
    monkeypatch.setattr("actswap.onnx.export.lower_nodes", wrong)
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(ExportError, match="does not agree with PyTorch") as caught:
        export_onnx(
            Net(act("acon_c")),
            torch.randn(2, 3, 8, 8),
            tmp_path / "m.onnx",
            overwrite=True,
            dynamic_size=False,
        )
    assert caught.value.exit_code == 4
    assert names_in(tmp_path) == ["m.onnx"] and (tmp_path / "m.onnx").read_bytes() == b"old"


def test_existing_file_bad_opset_and_bad_folder(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(FileError, match="exists"):
        export_onnx(Net(act("swish")), x, tmp_path / "m.onnx")
    with pytest.raises(FileError, match="does not exist"):
        export_onnx(Net(act("swish")), x, tmp_path / "no" / "m.onnx")
    with pytest.raises(UsageError, match="opset=17"):
        export_onnx(Net(act("swish")), x, tmp_path / "n.onnx", opset=17)
    with pytest.raises(CaptureError, match="cannot be run"):
        export_onnx(Net(act("swish")), torch.randn(2, 4, 8, 8), tmp_path / "n.onnx")
    assert names_in(tmp_path) == ["m.onnx"]


def test_disk_full_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx.save_model", full)
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(FileError, match="No space left"):
        export_onnx(Net(act("swish")), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx", overwrite=True)
    assert (tmp_path / "m.onnx").read_bytes() == b"old" and names_in(tmp_path) == ["m.onnx"]


def test_a_model_that_cannot_be_captured(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ExportError, match=r"torch\.export cannot capture Branches"):
        export_onnx(Branches(), torch.randn(2, 3), tmp_path / "m.onnx")
    assert names_in(tmp_path) == []


def test_large_weights_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actswap.onnx.export._INLINE_BYTES", 100)
    report = export_onnx(
        nn.Sequential(nn.Linear(32, 32), act("acon_c", shared=True)), torch.randn(2, 32), tmp_path / "m.onnx"
    )
    name, data = names_in(tmp_path)
    assert name == "m.onnx" and re.fullmatch(r"m\.onnx\.[0-9a-f]{12}\.data", data)
    assert report.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("decompose", [False, True])
def test_the_runtimes_own_float16_converter_takes_the_file(decompose: bool, tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    torch.manual_seed(0)
    # The converter gives the casts before two Min nodes of one input one name: Padé units only as functions.
    labels = [label for label in BY_LABEL if not (decompose and "pau" in label)]
    model, x = nn.Sequential(*(act(label) for label in labels)).eval(), torch.randn(2, C, 9, 13)
    export_onnx(model, x, tmp_path / "m.onnx", simplify=False, decompose=decompose)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half = convert_float_to_float16(onnx.load(tmp_path / "m.onnx"), keep_io_types=True)
    onnx.save(half, tmp_path / "half.onnx")
    assert cpu_session(tmp_path / "half.onnx").get_outputs()


def test_an_output_that_is_nearly_0_on_the_first_sample(tmp_path: Path) -> None:
    """Its error counts against what the output varies by on all inputs, not against 4e-20."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    nn.init.eye_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    x = torch.tensor([[-0.31, -0.65, -0.31, -0.54], [0.7, 0.2, 0.3, 0.1]])
    report = export_onnx(actswap.convert(net, "acon_c", x).model, x, tmp_path / "m.onnx")
    assert report.parity[0].relative <= 1e-6, "a few float32 roundings"


def test_a_wrong_signal_on_a_large_offset_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actswap.onnx import proof

    net, x = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)).eval(), torch.randn(8, 4)
    net[2].bias.data.fill_(300.0)
    real = proof.run
    monkeypatch.setattr(proof, "run", lambda *given: [300 + 0.99 * (y - 300) for y in real(*given)])
    with pytest.raises(ExportError, match="does not agree"):
        export_onnx(net, x, tmp_path / "m.onnx")


def test_the_search_for_dynamic_sizes_is_stopped_and_told(small, image, tmp_path, monkeypatch):
    from actswap.onnx import export

    captured = export._graph

    def endless(model, inputs, dynamic_batch, dynamic_size, *rest):
        while dynamic_size:
            pass
        return captured(model, inputs, dynamic_batch, dynamic_size, *rest)

    monkeypatch.setattr(export, "_graph", endless)
    report = export.export_onnx(small, image, tmp_path / "out.onnx", patience=0.05)
    assert report.inputs["x"][2:] == tuple(image.shape[2:]) and report.inputs["x"][0] == "batch"
    assert any("stopped after 0.05 s; --patience SECONDS" in note for note in report.notes)


def test_a_morph_that_has_arrived_leaves_its_source_out(tmp_path: Path) -> None:
    """At t = 1 the source counts nothing: 0 times its infinite values would be NaN."""

    class Endless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x - x)

    morph, x = actswap.nn.Morph(Endless(), act("swish", -1), 1.0), torch.ones(2, 3)
    model = nn.Sequential(nn.Linear(3, C), morph).eval()
    report = export_onnx(model, x, tmp_path / "m.onnx", simplify=False)
    assert "Log" not in report.operators and "actswap.Swish" in report.operators
    assert model[1].t == 1.0, "the model itself is not changed"


def test_a_decomposed_file_keeps_large_weights_out_of_the_inliner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inliner copies a model as one protobuf, which ends at 2 GiB."""
    import onnx.inliner

    real, seen = onnx.inliner.inline_local_functions, []
    monkeypatch.setattr("actswap.onnx.finalize._LARGE", 500)
    monkeypatch.setattr("onnx.inliner.inline_local_functions", lambda m: (seen.append(m.ByteSize()), real(m))[1])
    model, x = (
        nn.Sequential(nn.Linear(60, 60), act("acon_c", shared=True), nn.Linear(60, 60)).eval(),
        torch.randn(2, 60),
    )
    report = export_onnx(model, x, tmp_path / "m.onnx", decompose=True, simplify=False)
    assert seen[0] < 60 * 60 * 4 < report.bytes and report.parity[0].relative <= 1e-4
    assert [value.name for value in onnx.load(tmp_path / "m.onnx").graph.input] == ["input"]
