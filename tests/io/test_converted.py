"""A converted model that torch.save wrote is read by the restricted loader, and computes the same bits."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pickled_nets import NETS, Functional, X
from torch import nn

import actswap
from actswap.conversion.passes.reinstall import reinstalled
from actswap.errors import LoadError
from actswap.io.loading import load_model
from actswap.io.torchvision_import import import_library
from actswap.plan import plan_from_text

PLAIN = [name for name in NETS if name not in ("graph module", "forward on the instance", "back reference")]


def saved(model: nn.Module, tmp_path: Path) -> Path:
    torch.save(model, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize("name", PLAIN)
def test_what_torch_save_wrote_is_read(name: str, tmp_path: Path) -> None:
    model = actswap.convert(NETS[name]().eval(), "acon_c", X).model
    read = load_model(saved(model, tmp_path), allow=("pickled_nets",)).module
    assert torch.equal(read(X), model(X))
    assert torch.equal(read.train()(X), model.train()(X))
    assert torch.equal(actswap.revert(read).eval()(X), actswap.revert(model).eval()(X))


@pytest.mark.parametrize("target", ["acon_c", "meta_acon", "pau", "dy_relu_b", "acon_frelu", "silu", "opau"])
def test_a_network_of_torchvision_needs_no_allowance(target: str, tmp_path: Path) -> None:
    models = import_library("torchvision.models")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    net = models.resnet18(weights=None, num_classes=3).eval()
    model = actswap.convert(net, target, x, start="morph", verify=False).model
    read = load_model(saved(model, tmp_path)).module
    assert torch.equal(read(x), model(x))
    assert type(read).__name__ == "ResNet"
    assert torch.equal(actswap.revert(read)(x), net(x))


class Spelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.l(torch.exp(-torch.abs(self.l(x))))


@pytest.mark.parametrize("net", [nn.Sequential(nn.Linear(4, 4), nn.PReLU()), Spelled()], ids=["prelu", "formula"])
def test_a_bundle_with_trained_constants_and_formulas(net: nn.Module, tmp_path: Path) -> None:
    """PReLU's slopes are named in the plan, a formula stands in it as text."""
    model = actswap.convert(net.eval(), "pau", X, start="morph").model
    actswap.save(model, tmp_path / "bundle")
    assert torch.equal(actswap.load(tmp_path / "bundle", net)(X), model(X))


class Forged:
    def __init__(self, call: Any, *args: Any, state: Any = None) -> None:
        self.reduced = call, args, state

    def __reduce__(self) -> Any:
        return self.reduced


def layers() -> Any:
    model = actswap.convert(Functional().eval(), "acon_c", X).model
    return json.loads(model.__reduce_ex__(2)[1][1])


def with_plan(**changes: Any) -> str:
    (layer,) = layers()
    layer["plan"].update(changes)
    return json.dumps([layer])


STATE = vars(Functional())
FORGERIES = {
    "no text": Forged(reinstalled, Functional, 7, state=STATE),
    "damaged text": Forged(reinstalled, Functional, "[", state=STATE),
    "no layers": Forged(reinstalled, Functional, "{}", state=STATE),
    "unknown layer": Forged(reinstalled, Functional, '[{"code": "x"}]', state=STATE),
    "an attribute of its choice": Forged(reinstalled, Functional, '[{"fixed": {"forward": 0}}]', state=STATE),
    "a plan of another schema": Forged(reinstalled, Functional, with_plan(choices=[{"x": 1}]), state=STATE),
    "a class that is no module": Forged(reinstalled, dict, "[]", state=STATE),
    "a function for a class": Forged(reinstalled, torch.load, "[]", state=STATE),
    "a plan that is none": Forged(plan_from_text, "{}"),
    "a plan with more": Forged(plan_from_text, "{}", "{}"),
}


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES)
def test_forged_texts_are_refused(forged: Forged, tmp_path: Path) -> None:
    file = tmp_path / "forged.pt"
    torch.save(forged, file, pickle_module=pickle)
    with pytest.raises(LoadError):
        load_model(file, allow=("pickled_nets",))
