"""Texts that name a network: what a user types may name anything, what stands in a file may only size a network."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from torch import nn

from actswap.errors import LoadError
from actswap.io.model_source import build_model, check_library_source, from_current_folder, is_library_source


def test_a_factory_is_built_with_its_options() -> None:
    assert isinstance(build_model("torch.nn:ReLU?inplace=True"), nn.ReLU)
    assert build_model("torch.nn:ReLU?inplace=True").inplace
    assert build_model("torch.nn:Linear?in_features=2&out_features=3&bias=False").weight.shape == (3, 2)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("resnet18", "not understood"),
        (":x", "not understood"),
        ("torch.nn:", "not understood"),
        ("torch.nn:NoSuchLayer", "NoSuchLayer"),
        ("no_such_package:f", "no_such_package"),
        ("torch.nn:Linear", "in_features"),
        ("math:floor?x=1", "cannot be built|not an nn.Module"),
        ("torch.nn.functional:relu", "cannot be built"),
    ],
)
def test_what_cannot_be_built_says_why(spec: str, why: str) -> None:
    with pytest.raises(LoadError, match=why):
        build_model(spec)


@pytest.mark.parametrize("text", ["torchvision:resnet18", "timm:vit_tiny_patch16_224?img_size=64&num_classes=10"])
def test_networks_of_libraries_may_stand_in_a_file(text: str) -> None:
    assert is_library_source(text) and check_library_source(text, "the base") == text


@pytest.mark.parametrize(
    "text",
    [
        "os:system",
        "timm:hf-hub:user/model",
        "timm:../../model",
        "timm:resnet18?pretrained=True",
        "timm:resnet18?checkpoint_path=x",
        "timm:resnet18?num_classes=100000000",
        "timm:resnet18?num_classes=[1]",
        "torchvision:resnet18?weights=DEFAULT",
        "torchvision:",
    ],
)
def test_texts_of_files_that_do_more_are_refused(text: str) -> None:
    with pytest.raises(LoadError, match="the base is refused"):
        check_library_source(text, "the base")


def test_the_current_folder_is_importable_inside_the_block_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "factory_of_this_folder.py").write_text("from torch import nn\nnet = nn.Tanh\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    here = str(tmp_path)
    assert isinstance(build_model("factory_of_this_folder:net"), nn.Tanh) and here not in sys.path
    inside = threading.Event()
    leave = threading.Event()

    def hold() -> None:
        with from_current_folder():
            inside.set()
            leave.wait(30)

    other = threading.Thread(target=hold)
    with from_current_folder():
        other.start()
        assert inside.wait(30) and sys.path.count(here) == 1
    assert sys.path.count(here) == 1, "the other thread still needs it"
    leave.set()
    other.join()
    assert here not in sys.path
