"""A bundle gives the same bits back, and saving never leaves half a result."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from saved_earlier import SAVED, base_network, input_and_output
from small_net import SmallNet
from torch import nn

from actswap.conversion.passes.revert import revert
from actswap.conversion.pipeline import convert
from actswap.errors import FileError, LoadError, UsageError
from actswap.io import base_note, bundle, tensor_file
from actswap.io.loading import load_model
from actswap.io.tensor_file import read_tensors
from actswap.record import plan_of


def outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x)


def fresh() -> nn.Module:
    """Another copy of the base, with other weights."""
    torch.manual_seed(99)
    return SmallNet().eval()


@pytest.mark.parametrize("target", ["acon_a", "acon_b", "acon_c", "meta_acon", "pau"])
def test_round_trip_is_bit_exact(target, small, image, tmp_path):
    model = convert(small, target, image).model
    with torch.no_grad():  # as after training: every number differs from its start
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    bundle.save(model, tmp_path / "out")
    loaded = bundle.load(tmp_path / "out", fresh())
    assert torch.equal(outputs(model, image), outputs(loaded.eval(), image))
    assert {k: v.dtype for k, v in model.state_dict().items()} == {k: v.dtype for k, v in loaded.state_dict().items()}
    assert plan_of(loaded) == plan_of(model)


def test_saving_twice_gives_the_same_tensors(small, image, tmp_path):
    model = convert(small, "acon_c", image).model
    bundle.save(model, tmp_path / "a")
    bundle.save(bundle.load(tmp_path / "a", fresh()), tmp_path / "b")
    one, two = (read_tensors(tmp_path / name / "model.safetensors")[0] for name in "ab")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_half_precision_comes_back_as_it_was(small, image, tmp_path):
    model = convert(small, "acon_c", image).model.to(torch.bfloat16)
    bundle.save(model, tmp_path / "out")
    loaded = bundle.load(tmp_path / "out", fresh()).eval()
    x = image.to(torch.bfloat16)
    assert torch.equal(outputs(model, x), outputs(loaded, x))


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.act(self.a(x)))


def test_shared_weights_are_stored_once_and_stay_shared(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    model = convert(Tied().eval(), "acon_c", x).model
    bundle.save(model, tmp_path / "out")
    loaded = bundle.load(tmp_path / "out", Tied().eval())
    assert loaded.b.weight is loaded.a.weight
    assert torch.equal(outputs(model, x), outputs(loaded, x))
    from safetensors import safe_open

    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert sorted(k for k in file.keys() if k.endswith("weight")) == ["a.weight"]  # noqa: SIM118


def test_a_loaded_bundle_reverts_to_the_base(small, image, tmp_path):
    model = convert(small, "meta_acon", image).model
    bundle.save(model, tmp_path / "out")
    back = revert(bundle.load(tmp_path / "out", fresh()))
    assert torch.equal(outputs(back, image), outputs(small, image))
    assert back.state_dict().keys() == small.state_dict().keys()


def test_the_base_is_found_beside_the_bundle(library_model, image, tmp_path, monkeypatch):
    torch.save(library_model, tmp_path / "m.pt")
    model = convert(library_model, "acon_c", image).model
    bundle.save(model, tmp_path / "out", base=base_note.base_of(tmp_path / "m.pt"))
    loaded = load_model(tmp_path / "out")
    assert loaded.kind == "bundle" and torch.equal(outputs(loaded.module, image), outputs(model, image))
    with (tmp_path / "m.pt").open("ab") as file:  # another file of the same name is not the base
        file.write(b"x")
    with pytest.raises(LoadError, match=r"has changed(?s:.*)--base"):
        load_model(tmp_path / "out")


def test_another_architecture_is_refused(small, image, tmp_path):
    bundle.save(convert(small, "acon_c", image).model, tmp_path / "out")
    with pytest.raises(LoadError, match="does not fit"):
        bundle.load(tmp_path / "out", SmallNet(classes=7))


def test_a_model_that_was_not_converted(small, tmp_path):
    with pytest.raises(UsageError, match="not converted"):
        bundle.save(small, tmp_path / "out")


def test_nothing_is_overwritten_unasked(small, image, tmp_path):
    model = convert(small, "acon_c", image).model
    bundle.save(model, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(FileError, match="exists"):
        bundle.save(model, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="not a bundle"):
        bundle.save(model, tmp_path / "mine", overwrite=True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def fail_with(problem):
    def write(*args, **kwargs):
        raise problem

    return write


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("problem", "raised"), [(FULL, FileError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_a_failed_save_leaves_what_was_there(problem, raised, small, image, tmp_path, monkeypatch):
    model = convert(small, "acon_c", image).model
    bundle.save(model, tmp_path / "old")
    before = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()}
    monkeypatch.setattr(tensor_file, "save_file", fail_with(problem))
    with pytest.raises(raised):
        bundle.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(raised):
        bundle.save(model, tmp_path / "old", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()} == before


def test_a_disk_that_fills_up_halfway(small, image, tmp_path, monkeypatch):
    """The weights are written, then the plan fails: the old pair survives whole."""
    model = convert(small, "acon_c", image).model
    bundle.save(model, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("pathlib.Path.write_text", fail_with(FULL))
    with pytest.raises(FileError, match="No space left"):
        bundle.save(model, tmp_path / "out", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_files_of_two_bundles_are_not_mixed(small, image, tmp_path):
    model = convert(small, "acon_c", image).model
    one = bundle.save(model, tmp_path / "a")
    with torch.no_grad():
        model.head.bias.add_(1.0)
    two = bundle.save(model, tmp_path / "b")
    (one / "model.safetensors").write_bytes((two / "model.safetensors").read_bytes())
    with pytest.raises(LoadError, match="do not belong together"):
        bundle.load(one, fresh())


def test_the_plan_is_plain_json_without_infinities(small, image, tmp_path):
    bundle.save(convert(small, "acon_c", image).model, tmp_path / "out")
    text = (tmp_path / "out" / "plan.json").read_text()

    def refuse(word):
        raise AssertionError(word)

    document = json.loads(text, parse_constant=refuse)
    assert document["schema"] == 1 and len(document["plan"]["choices"]) == 4


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: folder.name)
def test_bundles_of_earlier_versions_load_and_compute_the_same(folder):
    x, y, rounding = input_and_output(folder)
    loaded = bundle.load(folder, base_network()).eval()
    torch.testing.assert_close(outputs(loaded, x), y, rtol=0, atol=rounding)


@pytest.mark.parametrize("target", ["pau", "silu"])
def test_a_finalized_model_is_saved_and_loaded(target, tmp_path) -> None:
    """Its morphs have become their targets; the plan still says morph, the weights tell which are gone."""
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()), torch.randn(2, 3, 6, 6)
    model = convert(net, target, x, start="morph").model.eval()
    model[1].t = 1.0
    model[1] = model[1].target
    loaded = bundle.load(bundle.save(model, tmp_path / "b"), net).eval()
    assert torch.equal(loaded(x), model(x)) and not hasattr(loaded[1], "share") and loaded[3].t == 0.0
