"""Weights that a toolkit trained go back into a bundle, whatever it saved, or the reason why not is said."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from actswap.cli.main import run
from actswap.conversion.pipeline import convert
from actswap.errors import LoadError
from actswap.io import base_note, bundle
from actswap.io.loading import load_model
from actswap.io.trained import rebuild
from actswap.train.groups import activation_parameters

State = dict[str, Tensor]


@pytest.fixture
def begun(library_model: nn.Module, image: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle, and the file that it was made from."""
    monkeypatch.chdir(tmp_path)
    torch.save(library_model, "m.pt")
    converted = convert(library_model, "acon_c", image).model
    return bundle.save(converted, "begun", base=base_note.base_of("m.pt"))


def trained(begun: Path) -> nn.Module:
    model = load_model(begun).module
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.125
    return model


def lightning(model: nn.Module) -> None:
    torch.save({"state_dict": {f"net.{k}": v for k, v in model.state_dict().items()}, "epoch": 1}, "out.pt")


def timm(model: nn.Module) -> None:
    older = {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    torch.save({"state_dict": older, "state_dict_ema": model.state_dict()}, "out.pt")


def compiled(model: nn.Module) -> None:
    torch.save({f"_orig_mod.{k}": v for k, v in model.state_dict().items()}, "out.pt")


def averaged(model: nn.Module) -> None:
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), "out.pt")


def whole(model: nn.Module) -> None:
    torch.save({"model": model, "ema": None}, "out.pt")


def folder(model: nn.Module) -> None:
    Path("out.pt").mkdir()
    save_file(model.state_dict(), "out.pt/model.safetensors")


@pytest.mark.parametrize("save", [lightning, timm, compiled, averaged, whole, folder])
def test_what_toolkits_save_goes_back_into_a_bundle(
    save: Callable[[nn.Module], None], begun: Path, image: Tensor
) -> None:
    model = trained(begun)
    save(model)
    found = rebuild("out.pt", begun)
    assert torch.equal(found.model(image), model(image))
    assert found.changed == found.activations and len(found.changed) == 2 and not found.warning


def test_the_command(begun: Path, image: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained(begun)
    lightning(model)
    assert run(["rebuild", "out.pt", "--bundle", "begun", "-o", "after"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 2 activations were trained" in out
    assert torch.equal(load_model("after").module(image), model(image))
    line = next(line for line in err.splitlines() if line.startswith("Next: actswap "))
    assert run(shlex.split(line.removeprefix("Next: actswap "))) == 0


@pytest.mark.parametrize("given", ["scan out.pt", "scan out.pt --model tests.io.test_trained:build"])
def test_weights_of_a_converted_model_are_recognised(
    given: str, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lightning(trained(begun))
    assert run(given.split()) == 3
    assert "actswap rebuild out.pt --bundle" in capsys.readouterr().err


def build() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def test_a_network_that_the_trainer_built_anew(begun: Path) -> None:
    """As YOLO.train() does from its yaml: the activations that were trained are the original ones."""
    torch.save({"model": build(), "ema": None}, "best.pt")
    with pytest.raises(LoadError, match=r"no parameter of the 2 activations(?s:.*)anew"):
        rebuild("best.pt", begun)


def test_activations_that_were_frozen(begun: Path) -> None:
    """As LoRA freezes them: everything else was trained."""
    model = load_model(begun).module
    own = activation_parameters(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in own:
                parameter += 0.5
    torch.save(model.state_dict(), "out.pt")
    found = rebuild("out.pt", begun)
    assert not found.changed and found.others == 6 and "frozen" in found.warning


def test_a_weight_that_is_missing(begun: Path) -> None:
    state = trained(begun).state_dict()
    del state["6.bias"]
    torch.save(state, "out.pt")
    with pytest.raises(LoadError, match=r"missing: 6\.bias"):
        rebuild("out.pt", begun)


def test_a_base_model_of_ones_own(begun: Path, image: Tensor) -> None:
    model = trained(begun)
    compiled(model)
    assert torch.equal(rebuild("out.pt", begun, build()).model(image), model(image))
