"""The words of `scan --why`: what was matched, at which axis and by which layer, and how the call is reached."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actswap.conversion.survey import scan
from actswap.recognize.explain import explain_site, other_calls


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.gate = nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        y = y * torch.sigmoid(y)
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        return F.relu(y[:, :2].clamp(0, 64).round(), inplace=True).sum() + y.sum()


def told(name: str) -> str:
    found = scan(Net(), torch.randn(2, 3, 4, 4)).survey
    (site,) = [s for s in found.sites if s.name == name]
    rewritten = bool(site.owner in found.islands and found.islands[site.owner].rewrites)
    return "\n".join(explain_site(site, found.tape, found.located.get(site.owner), rewritten))


def test_a_module_is_told_with_its_layer_and_its_way() -> None:
    text = told("act")
    assert "act is a site: relu, called as a module by the model itself" in text
    assert "input 2x6x4x4; 6 channels on axis 1, as made by conv2d in conv" in text
    assert "role activation" in text and "swapping the module" in text


def test_a_formula_is_told_with_its_operations_and_its_line() -> None:
    text = told("silu")
    assert "the formula of silu in 2 operations: sigmoid, mul" in text
    assert f"at {__file__}:" in text and "replaced in the source of the model itself" in text


def test_a_gate_is_told_with_what_takes_it() -> None:
    text = told("sigmoid")
    assert "role gate: its result multiplies another tensor" in text and "--only takes it" in text


def test_calls_that_are_no_activation_are_told_too() -> None:
    found = scan(Net(), torch.randn(2, 3, 4, 4)).survey
    lines = other_calls(found.tape, found.located[""])
    assert any(line.startswith("clamp") and "no activation" in line for line in lines), lines
