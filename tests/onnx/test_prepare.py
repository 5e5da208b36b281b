"""Preparing a file: what stays blocked, and what is refused in words."""

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from torch import nn

import actswap
from actswap.activations.acon_c import AconC
from actswap.errors import ExportError
from actswap.onnx.export import export_onnx
from actswap.onnx.library import find_library
from actswap.onnx.prepare import KEY, open_prepared, prepare
from actswap.onnx.runtime import cpu_session
from actswap.onnx.sessions import session

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


class Readings(CalibrationDataReader):
    """The calibration inputs of the runtime's quantiser, one after the other."""

    def __init__(self, feeds) -> None:
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def trained(target: str) -> nn.Module:
    """A network whose parameters differ from channel to channel, as after training."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, stride=2), nn.Conv2d(24, 24, 1), nn.Conv2d(24, 8, 1)]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model = nn.Sequential(*(part for conv in convs for part in (conv, nn.ReLU())), pool)
    model = actswap.convert(model.eval(), target, torch.randn(4, 3, 12, 12), start="auto").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * parameter.abs().mean() * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=["acon_c", "meta_acon"])
def eight_bits(request, tmp_path_factory):
    """An 8-bit file by the runtime's own quantiser: whole, and with two convolutions left in float32."""
    folder, x = tmp_path_factory.mktemp("eight"), torch.randn(8, 3, 12, 12)
    export_onnx(trained(request.param), x, folder / "m.onnx", simplify=False, dynamic_size=False)
    convolutions = [node.name for node in onnx.load(folder / "m.onnx").graph.node if node.op_type == "Conv"]
    for name, left in (("whole", []), ("part", convolutions[:2])):
        quantize_static(
            folder / "m.onnx",
            folder / f"{name}.onnx",
            Readings([{"input": x.numpy() * k} for k in (1, 0.7, 1.2)]),
            per_channel=True,
            nodes_to_exclude=left,
        )
    return folder, x.numpy()


@pytest.mark.parametrize(("name", "way"), [("whole", "native"), ("part", "prepared")])
def test_a_quantised_file_computes_what_it_does_in_a_plain_runtime(eight_bits, tmp_path, name, way):
    folder, x = eight_bits
    found = session(folder / f"{name}.onnx", cache_folder=tmp_path)
    want, got = (s.run(None, {"input": x})[0] for s in (cpu_session(folder / f"{name}.onnx"), found))
    assert found.actswap_way == way, found.actswap_notes
    # A rounding may become a step of 8 bits: 1/255 of the range, in each of five layers.
    np.testing.assert_allclose(got, want, rtol=0, atol=5 / 255 * np.ptp(want))


def test_an_activation_between_transposes_keeps_its_axis(tmp_path):
    """The runtime moves what it knows across a transpose: a placeholder would take its parameters along."""
    torch.manual_seed(0)

    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 1)
            self.last, self.first = AconC(16, channel_dim=-1), AconC(16)
            with torch.no_grad():
                for p in (self.last.p1, self.last.p2, self.first.p1, self.first.p2):
                    p.normal_()

        def forward(self, x):
            x = self.last(self.one(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.three(self.first(self.two(x)))

    model, x = ChannelsLast().eval(), torch.randn(2, 3, 20, 20)  # 18 x 18 positions, 16 channels
    export_onnx(model, x, tmp_path / "m.onnx", simplify=False, dynamic_size=False)
    found = session(tmp_path / "m.onnx", cache_folder=tmp_path)
    assert found.actswap_way == "prepared", found.actswap_notes
    with torch.no_grad():
        want = model(x).numpy()
    got = found.run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("kind", ["float", "integers"])
def test_a_wrong_preparation_is_never_used(kind, tmp_path, monkeypatch):
    torch.manual_seed(0)

    class Pictures(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 3)
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3), AconC(16), nn.Conv2d(16, 4, 1))
            nn.init.normal_(self.body[1].p1)

        def forward(self, x):
            return self.body(self.table(x).permute(0, 3, 1, 2) if kind == "integers" else x * 1e-3)

    # At a scale of 1e3 the parameters matter; random numbers of size 1 would not show them.
    x = torch.randint(0, 7, (2, 9, 9)) if kind == "integers" else 1e3 * torch.randn(2, 3, 9, 9)
    export_onnx(Pictures().eval(), x, tmp_path / "m.onnx", simplify=False, dynamic_size=False)
    assert session(tmp_path / "m.onnx", cache_folder=tmp_path / "right").actswap_way == "prepared"
    mixed = lambda node, arrays, width, to: [np.flip(a, 0).copy() if a.ndim else a for a in arrays]
    monkeypatch.setattr("actswap.onnx.prepare.padded", mixed)
    found = session(tmp_path / "m.onnx", cache_folder=tmp_path / "wrong")
    assert found.actswap_way == "native" and "does not agree" in found.actswap_notes[0]
    monkeypatch.setattr("actswap.onnx.prepare.working_feeds", lambda *given: ([], "it takes no random inputs"))
    found = session(tmp_path / "m.onnx", cache_folder=tmp_path / "unknown")
    assert found.actswap_way == "native" and "cannot be checked" in found.actswap_notes[0]
