"""Which network or weights of a checkpoint are taken, and that the rest is never built."""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import plain
from torch import nn

from actswap.errors import LoadError
from actswap.io.loading import load_model

X = torch.ones(1, 3, 8, 8)


def weights(value: float) -> dict[str, torch.Tensor]:
    """Weights of `factories:plain` that are all one value, so that a loaded network tells which they are."""
    return {name: torch.full_like(t, value) for name, t in plain().state_dict().items()}


def network(value: float) -> nn.Module:
    net = plain()
    net.load_state_dict(weights(value))
    return net


def first(path: Path, **options: Any) -> float:
    loaded = load_model(path, model="factories:plain", **options)
    return next(loaded.module.parameters()).flatten()[0].item()


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("state_dict_ema", "state_dict"),  # timm
        ("model_ema", "model"),  # torchvision's references, DeiT
        ("ema", "model"),  # ultralytics, DiT
        ("params_ema", "params"),  # BasicSR
        ("generator", "discriminator"),
        ("teacher", "student"),  # DINO
        ("state_dict", "optimizer_weights"),
        ("model", "criterion"),
    ],
)
@pytest.mark.parametrize("make", [weights, network])
def test_the_toolkits_own_choice(taken: str, other: str, make: Any, tmp_path: Path) -> None:
    for pair in ({taken: make(1), other: make(2)}, {other: make(2), taken: make(1)}):
        torch.save(pair, tmp_path / "c.pt")
        assert first(tmp_path / "c.pt") == 1


def test_the_choice_is_told_and_the_user_may_choose(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": weights(2), "state_dict_ema": weights(1)}, tmp_path / "c.pt")
    loaded = load_model(tmp_path / "c.pt", model="factories:plain")
    (note,) = loaded.notes
    assert "took state_dict_ema (4 tensors)" in note and "state_dict (4 tensors)" in note and "--key" in note
    assert first(tmp_path / "c.pt", key="state_dict") == 2


@pytest.mark.parametrize("content", [{"model": None, "ema": network(1)}, {"ema": {"module": weights(1)}, "model": {}}])
def test_an_empty_entry_is_passed_over(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pt")
    assert first(tmp_path / "c.pt") == 1


def test_several_networks_without_usual_names_are_listed(tmp_path: Path) -> None:
    torch.save({"encoder": weights(1), "decoder": weights(2)}, tmp_path / "c.pt")
    with pytest.raises(LoadError, match=r"encoder: 4 tensors; decoder: 4 tensors(?s:.*)--key encoder"):
        load_model(tmp_path / "c.pt", model="factories:plain")
    assert first(tmp_path / "c.pt", key="decoder") == 2


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    torch.save({"model": weights(1), "epoch": 1}, tmp_path / "c.pt")
    with pytest.raises(LoadError, match=r"'net'(?s:.*)model \(4 tensors\), epoch \(int\)") as caught:
        load_model(tmp_path / "c.pt", model="factories:plain", key="net")
    assert caught.value.add == "--key model"


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "best": 0.5, "names": ["a"]}, tmp_path / "c.pt")
    with pytest.raises(LoadError, match=r"epoch \(int\), best \(float\), names \(list\)"):
        load_model(tmp_path / "c.pt")


class Holder:
    """An object that is no network and holds one, as fastai's Learner does."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.opt, self.folder = model, functools.partial(torch.optim.Adam, lr=1.0), pathlib.Path(".")


@pytest.mark.parametrize(
    "beside", [argparse.Namespace(lr=0.1), pathlib.Path("."), functools.partial(torch.optim.SGD), Holder(plain())]
)
def test_what_stands_beside_the_weights_needs_no_permission(beside: Any, tmp_path: Path) -> None:
    torch.save({"args": beside, "model": weights(1)}, tmp_path / "c.pt")
    assert first(tmp_path / "c.pt") == 1


def test_the_network_of_an_object_that_is_none(tmp_path: Path) -> None:
    torch.save(Holder(network(1)), tmp_path / "c.pt")
    assert first(tmp_path / "c.pt") == 1
    assert first(tmp_path / "c.pt", trust_pickle=True) == 1


def test_tensors_beside_a_table_of_weights_are_no_weights(tmp_path: Path) -> None:
    torch.save({"step": torch.tensor(3), "rng": torch.zeros(4), "params": weights(1)}, tmp_path / "c.pt")
    assert first(tmp_path / "c.pt") == 1


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_model_is_named_as_such(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)}, tmp_path / "q.pt")
    with pytest.raises(LoadError, match="quantised"):
        load_model(tmp_path / "q.pt", model="factories:plain")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # importing torch.compile's backends warns of torch.jit
@pytest.mark.parametrize("wrap", [torch.optim.swa_utils.AveragedModel, torch.compile])
@pytest.mark.parametrize("trust", [False, True])
def test_the_network_inside_a_wrapper(wrap: Any, trust: bool, tmp_path: Path) -> None:
    torch.save({"model": wrap(network(1))}, tmp_path / "c.pt")
    loaded = load_model(tmp_path / "c.pt", trust_pickle=trust)
    assert type(loaded.module) is nn.Sequential and "inside" in loaded.notes[0]
    assert first(tmp_path / "c.pt") == 1


def test_weights_of_a_network_whose_classes_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As YOLOv5 and fastai files are, outside of their projects: `--model` builds it, the file gives the weights."""
    module = type(sys)("gone_package")
    module.Gone = type("Gone", (nn.Sequential,), {"__module__": "gone_package"})
    monkeypatch.setitem(sys.modules, "gone_package", module)
    torch.save({"model": module.Gone(*network(1))}, tmp_path / "c.pt")
    monkeypatch.delitem(sys.modules, "gone_package")
    assert first(tmp_path / "c.pt") == 1
