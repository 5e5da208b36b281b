"""actswap.verify: outputs, and the checks that outputs cannot replace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.errors import UsageError

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A body under `no_grad` or not, a gain that is a parameter or a number."""

    def __init__(self, trained: bool = True, folded: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.act = nn.Linear(4, 4), nn.Linear(4, 3), nn.ReLU()
        self.gain = nn.Parameter(torch.ones(1))
        self.trained, self.folded = trained, folded

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            h = self.act(self.body(x))
        return self.head(h if self.folded else h * self.gain)


@pytest.mark.parametrize("start", ["auto", "morph"])
def test_a_converted_model_is_proved_to_rounding_whatever_its_start(start: str) -> None:
    model = Net().eval()
    new = actswap.convert(model, "acon_c", X, start=start).model
    parity = actswap.verify(model, new, X)
    assert parity.proof is not None and parity.proof.ok
    assert {c.name for c in parity.proof.checks} == {"perturbed weights", "gradients", "module calls"}
    assert parity.proof["gradients"].error == 0.0
    assert type(new.act).__name__ in ("AconC", "Morph"), "the targets stand again"


def test_a_folded_gain_and_a_lost_no_grad_fail() -> None:
    folded = actswap.verify(Net(), Net(folded=True), X)
    assert folded.rel == 0.0 and not folded.proof.ok
    assert folded.proof["gradients"].names == ("gain",) and "lost" in folded.proof["gradients"].said
    assert not folded.proof["perturbed weights"].passed
    freed = actswap.verify(Net(trained=False), Net(), X)
    assert freed.rel == 0.0 and set(freed.proof["gradients"].names) == {"body.weight", "body.bias", "input 0"}


def test_outputs_alone_on_request() -> None:
    assert actswap.verify(Net(), Net(folded=True), X, checks="outputs").proof is None
    with pytest.raises(UsageError, match="checks"):
        actswap.verify(Net(), Net(), X, checks="some")


def test_json() -> None:
    data = actswap.verify(Net(), Net(), X).to_dict()
    assert data["proof"]["ok"] and [c["passed"] for c in data["proof"]["checks"]] == [True] * 3
    assert "proof" not in actswap.verify(Net(), Net(), X, checks="outputs").to_dict()
