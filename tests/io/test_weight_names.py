"""Names of wrappers are taken off by rule; weights are filled in completely or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from factories import plain, tied
from torch import Tensor, nn

from actswap.errors import LoadError
from actswap.io.loading import load_model

State = dict[str, Tensor]


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


def averaged(state: State) -> State:
    net = plain()
    net.load_state_dict(state)
    return torch.optim.swa_utils.AveragedModel(net).state_dict()


@pytest.mark.parametrize(
    "saved",
    [
        under("_orig_mod."),
        under("module."),
        under("module._orig_mod."),
        under("_orig_mod.module."),
        under("model."),
        under("backbone."),
        under("net.encoder."),
        lambda state: {**under("model.")(state), "criterion.weight": torch.ones(3)},
        lambda state: {name.replace("0.", "0._orig_mod.", 1): value for name, value in state.items()},
        averaged,
    ],
)
def test_prefixes_of_wrappers(saved: Callable[[State], State], image: Tensor, tmp_path: Path) -> None:
    model = plain().eval()
    torch.save({"state_dict": saved(model.state_dict())}, tmp_path / "w.ckpt")
    loaded = load_model(tmp_path / "w.ckpt", model="factories:plain")
    assert torch.equal(loaded.module(image), model(image))
    assert loaded.notes, "what was done to the names is said"


def test_what_lies_outside_the_prefix_is_said(tmp_path: Path) -> None:
    torch.save({**under("model.")(plain().state_dict()), "loss.weight": torch.ones(3)}, tmp_path / "w.ckpt")
    notes = load_model(tmp_path / "w.ckpt", model="factories:plain").notes
    assert notes == ("prefix 'model.' taken off", "not under it, so of something else: loss.weight")


def test_two_networks_in_one_table_need_a_choice(image: Tensor, tmp_path: Path) -> None:
    student, teacher = plain().eval(), plain().eval()
    both = {**under("student.")(student.state_dict()), **under("teacher.")(teacher.state_dict())}
    torch.save(both, tmp_path / "w.pt")
    with pytest.raises(LoadError, match=r"'student\.', 'teacher\.'(?s:.*)--prefix"):
        load_model(tmp_path / "w.pt", model="factories:plain")
    for prefix in ("teacher.", "teacher"):
        loaded = load_model(tmp_path / "w.pt", model="factories:plain", prefix=prefix)
        assert torch.equal(loaded.module(image), teacher(image))


def test_the_same_network_twice_is_one(image: Tensor, tmp_path: Path) -> None:
    net = plain().eval()
    torch.save({**under("a.")(net.state_dict()), **under("b.")(net.state_dict())}, tmp_path / "w.pt")
    assert torch.equal(load_model(tmp_path / "w.pt", model="factories:plain").module(image), net(image))


def wrapped() -> nn.Module:
    return nn.Sequential(plain())


def test_a_prefix_that_only_the_network_has(image: Tensor, tmp_path: Path) -> None:
    net = plain().eval()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    assert torch.equal(load_model(tmp_path / "w.pt", model=f"{__name__}:wrapped").module(image), net(image))


@pytest.mark.parametrize("saved", [under(""), under("model.")])
def test_weights_are_never_filled_in_part(saved: Callable[[State], State], tmp_path: Path) -> None:
    state = plain().state_dict()
    del state["2.weight"]
    torch.save(saved(state), tmp_path / "w.pt")
    with pytest.raises(LoadError, match=r"missing: 2\.weight"):
        load_model(tmp_path / "w.pt", model="factories:plain")


def test_names_under_the_prefix_that_the_network_does_not_know(tmp_path: Path) -> None:
    torch.save(under("model.")({**plain().state_dict(), "extra": torch.ones(2)}), tmp_path / "w.pt")
    with pytest.raises(LoadError, match="not in the model: extra"):
        load_model(tmp_path / "w.pt", model="factories:plain")


def test_a_prefix_that_is_not_there(tmp_path: Path) -> None:
    torch.save(under("model.")(plain().state_dict()), tmp_path / "w.pt")
    with pytest.raises(LoadError, match=r"'net\.'(?s:.*)--prefix model\."):
        load_model(tmp_path / "w.pt", model="factories:plain", prefix="net")


@pytest.mark.parametrize("lost", ["0.weight", "2.weight"])
def test_tied_weights_under_a_prefix_are_saved_once(lost: str, tmp_path: Path) -> None:
    state = {name: torch.randn_like(value) for name, value in tied().state_dict().items()}
    del state[lost]
    torch.save(under("module.")(state), tmp_path / "w.pt")
    found = load_model(tmp_path / "w.pt", model="factories:tied").module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
