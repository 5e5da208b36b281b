"""Moved weights: the same amounts in every network, put back exactly, and what was folded shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actswap.checks.parity import compare
from actswap.checks.perturbed import MOVED, moved, perturbed_run


class Gains(nn.Module):
    """A gain of 1, a bias of 0, a buffer, a Python number, and statistics that must stay positive."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.gain, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(4), requires_grad=False)
        self.register_buffer("shift", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("index", torch.arange(3))
        self.scale = 1.5

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.a(x)) * self.gain * self.scale + self.bias + self.shift[0]


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
NAMES = frozenset((*dict(Gains().named_parameters()), *dict(Gains().named_buffers())))


def test_every_floating_tensor_moves_by_about_the_amount_and_comes_back() -> None:
    model = Gains().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with moved(model, NAMES, owners=("",)):
        for name, t in model.state_dict().items():
            change = (t - before[name]).detach().abs() if t.is_floating_point() else torch.zeros(1)
            if name in ("index", "bn.num_batches_tracked"):
                assert torch.equal(t, before[name])
                continue
            finite = change[change.isfinite()]
            size = float(before[name][before[name].isfinite()].abs().max())
            assert 0 < float(finite.max()) <= 2 * 3 * MOVED * max(size, MOVED)  # the noise is cut at 3
        assert bool((model.bn.running_var >= 0).all()) and model.shift[1] == float("-inf")
        assert model.scale != 1.5 and model.bn.eps == 1e-5
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model.scale == 1.5
    assert model.gain.requires_grad and not model.bias.requires_grad


@pytest.mark.parametrize("folded", ["gain", "bias", "shift"])
def test_a_tensor_that_became_a_constant_shows(folded: str) -> None:
    model, other = Gains().eval(), Gains().eval()
    value = getattr(other, folded).detach().clone()
    delattr(other, folded)
    setattr(other, folded, value)
    assert torch.equal(model(X), other(X))
    assert compare(perturbed_run(model, (X,), {}, NAMES), perturbed_run(other, (X,), {}, NAMES)).rel > 1e-3


def test_networks_with_the_same_names_move_by_the_same_amounts() -> None:
    a, b = (perturbed_run(Gains().eval(), (X,), {}, NAMES)[0] for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, Gains().eval()(X))


def test_names_that_are_left_out_do_not_move() -> None:
    with moved(model := Gains(), NAMES - {"gain"}):
        assert model.gain.item() == 1.0
