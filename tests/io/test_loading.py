"""Every kind of model file loads to the same bits, and every wrong one says what works."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from factories import plain
from safetensors.torch import save_file
from torch import nn

from actswap.conversion.passes.revert import revert
from actswap.conversion.pipeline import convert
from actswap.errors import LoadError
from actswap.io.loading import build_model, load_model


def same(a: nn.Module, b: nn.Module, x: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(a(x), b(x))


def test_whole_module_computes_the_same_bits(library_model, image, tmp_path):
    torch.save(library_model, tmp_path / "m.pt")
    loaded = load_model(tmp_path / "m.pt")
    assert loaded.kind == "pickle" and same(loaded.module, library_model, image)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_torchvision_pickles_need_no_permission(name, tmp_path):
    model = build_model(f"torchvision:{name}" + ("?init_weights=False" if name == "googlenet" else "")).eval()
    torch.save(model, tmp_path / "m.pt")
    x = torch.randn(1, 3, 64, 64)
    assert type(load_model(tmp_path / "m.pt").module) is type(model)
    assert same(load_model(tmp_path / "m.pt").module, model, x)


def test_exported_program(library_model, image, tmp_path):
    batch = torch.export.Dim("batch")
    program = torch.export.export(library_model, (image,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "m.pt2")
    loaded = load_model(tmp_path / "m.pt2")
    assert loaded.kind == "exported"
    wide = image.repeat(2, 1, 1, 1)
    torch.testing.assert_close(loaded.module(wide), library_model(wide))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {f"module.{k}": v for k, v in s.items()},
    ],
)
def test_state_dicts_with_a_factory(wrap: Callable, image, tmp_path):
    model = plain().eval()
    torch.save(wrap(model.state_dict()), tmp_path / "w.pt")
    loaded = load_model(tmp_path / "w.pt", model="factories:plain")
    assert loaded.kind == "state_dict" and same(loaded.module, model, image)


def test_safetensors_with_a_factory(image, tmp_path):
    model = plain().eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert same(load_model(tmp_path / "w.safetensors", model="factories:plain").module, model, image)


def test_options_of_a_spec():
    assert build_model("torchvision:resnet18?num_classes=7").fc.out_features == 7
    assert build_model("timm:resnet18?in_chans=1").conv1.in_channels == 1


def test_a_class_of_the_users_own_is_named_with_the_permission_it_needs(small, image, tmp_path):
    torch.save(small, tmp_path / "m.pt")
    with pytest.raises(LoadError, match=r"small_net\.SmallNet.*(?s:.*)--allow small_net"):
        load_model(tmp_path / "m.pt")
    assert same(load_model(tmp_path / "m.pt", allow=["small_net"]).module, small, image)
    assert same(load_model(tmp_path / "m.pt", trust_pickle=True).module, small, image)


def test_the_permission_is_for_that_package_only(small, tmp_path):
    torch.save(small, tmp_path / "m.pt")
    with pytest.raises(LoadError, match="SmallNet"):
        load_model(tmp_path / "m.pt", allow=["small"])


def test_a_class_that_is_not_installed(library_model, tmp_path, monkeypatch):
    module = type(sys)("gone_package")
    module.Gone = type("Gone", (nn.Sequential,), {"__module__": "gone_package"})
    monkeypatch.setitem(sys.modules, "gone_package", module)
    torch.save(module.Gone(nn.ReLU()), tmp_path / "m.pt")
    monkeypatch.delitem(sys.modules, "gone_package")
    with pytest.raises(LoadError, match="cannot be imported"):
        load_model(tmp_path / "m.pt", allow=["gone_package"])


@pytest.mark.parametrize("kind", ["module", "safetensors", "exported"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_truncated_files(kind, part, library_model, image, tmp_path):
    path = tmp_path / {"module": "m.pt", "safetensors": "m.safetensors", "exported": "m.pt2"}[kind]
    if kind == "module":
        torch.save(library_model, path)
    elif kind == "safetensors":
        save_file(library_model.state_dict(), path)
    else:
        torch.export.save(torch.export.export(library_model, (image,)), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(LoadError) as caught:
        load_model(path, model="factories:plain")
    assert caught.value.fix


def test_a_state_dict_that_does_not_fit_names_the_keys(tmp_path):
    state = plain().state_dict()
    state["0.weight"] = torch.zeros(9, 3, 3, 3)
    state["extra"] = state.pop("2.bias")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(LoadError) as caught:
        load_model(tmp_path / "w.pt", model="factories:plain")
    text = str(caught.value)
    assert "missing: 2.bias" in text and "not in the model: extra" in text
    assert "0.weight is (9, 3, 3, 3) in the file and (8, 3, 3, 3) in the model" in text


def test_weights_without_a_factory_say_how_to_go_on(tmp_path):
    torch.save(plain().state_dict(), tmp_path / "w.pt")
    with pytest.raises(LoadError, match="--model torchvision:resnet50"):
        load_model(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_told_apart(library_model, tmp_path):
    torch.jit.save(torch.jit.script(library_model), tmp_path / "m.pt")
    with pytest.raises(LoadError, match=r"TorchScript(?s:.*)state_dict"):
        load_model(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.onnx", b"\x08\x07\x12\x07pytorch"),
        ("m.pt", b"hello"),
        ("m.pt", b""),
        ("m.safetensors", b"0123456789abcdef"),
    ],
)
def test_unknown_files(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError) as caught:
        load_model(tmp_path / name)
    assert caught.value.fix


def test_a_missing_file(tmp_path):
    with pytest.raises(LoadError, match="no file"):
        load_model(tmp_path / "none.pt")


def test_an_old_pickle_of_weights_loads_and_of_anything_else_does_not(tmp_path, image):
    model = plain().eval()
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(load_model(tmp_path / "old.pt", model="factories:plain").module, model, image)
    with (tmp_path / "raw.pt").open("wb") as file:
        pickle.dump({"a": Path}, file, protocol=2)
    with pytest.raises(LoadError, match="more than weights"):
        load_model(tmp_path / "raw.pt")


@pytest.mark.parametrize(
    "spec",
    ["torchvision:resnet999", "nothing", "no_such_package:make", "factories:missing", "factories:nn"],
)
def test_specs_that_cannot_be_built(spec):
    with pytest.raises(LoadError, match="--model"):
        build_model(spec)


@pytest.mark.parametrize("target", ["acon_c", "meta_acon", "pau"])
def test_a_converted_model_saved_by_torch_needs_no_permission(target, tmp_path):
    """Its class, its methods and its plan come back: it computes the same bits and reverts to the original."""
    torch.manual_seed(0)
    model, x = build_model("torchvision:mobilenet_v3_small").eval(), torch.randn(1, 3, 32, 32)
    # Random weights and one small picture: in train mode a unit sees 1e7 times the range that it sees in eval mode.
    converted = convert(model, target, x).model
    torch.save(converted, tmp_path / "m.pt")
    loaded = load_model(tmp_path / "m.pt").module
    assert same(loaded, converted, x) and same(revert(loaded), model, x)
