"""In-place activations and values that are read again: the alias is kept, or the site is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conversion_nets import ROWS, alias
from torch import Tensor, nn

import actswap
import actswap.errors
from actswap.errors import UsageError


def read_after(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    y = F.relu(x, inplace=True)
    return self.b(x + y)


def read_after_module(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    y = self.act(x)
    return self.b(x + y)


def bare_method(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    x.relu_()
    return self.b(x)


def bare_function(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    F.relu_(x)
    return self.b(x) + x


def bare_module(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    self.act(x)
    return self.b(x) + x


def twice_in_place(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    F.relu(x, inplace=True)
    F.leaky_relu(x, 0.1, inplace=True)
    return self.b(x)


def returned(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    self.act(h)
    return h


def overwritten_input(self: nn.Module, x: Tensor) -> Tensor:
    """A ResNet with pre-activation in place: the shortcut is what the activation wrote."""
    h = self.a(x)
    return self.b(self.act(h)) + h


def formula_in_place(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    h.mul_(torch.sigmoid(h))
    return self.b(h) + h


def through_a_view(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    h.view(-1).relu_()
    return self.b(h)


def through_a_slice(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    h[:, :3].relu_()
    return self.b(h) + h


def augmented(self: nn.Module, x: Tensor) -> Tensor:
    """`h += 1` writes to what `z` names too; a trace makes a new tensor of it."""
    h = self.a(x)
    z = h
    h += 1
    return self.b(F.relu(h)) + z


ALIASES = [
    augmented,
    read_after,
    read_after_module,
    bare_method,
    bare_function,
    bare_module,
    twice_in_place,
    returned,
    overwritten_input,
    formula_in_place,
    through_a_view,
    through_a_slice,
]


HARD = (through_a_view, through_a_slice, augmented)


@pytest.mark.parametrize("forward", ALIASES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("target", ["acon_c", "gelu"])
def test_an_alias_is_kept_or_the_site_is_left(forward: Callable[..., Tensor], target: str) -> None:
    model = alias(forward, act=nn.ReLU(inplace=True))
    sites = actswap.scan(model, ROWS)
    assert sites
    try:
        result = actswap.convert(model, target, ROWS)
    except UsageError as error:
        assert forward in HARD, error
        return
    report = result.report
    assert report.ok and report.census is not None and report.census.complete
    assert len(report.replaced) + len(report.left) == len(sites)
    if forward not in HARD:
        assert not report.left
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(8))
    assert actswap.verify(model, result.model, x).rel <= 10 * report.tolerance
    assert torch.equal(actswap.revert(result.model)(ROWS), model(ROWS))


def test_the_input_is_not_overwritten_by_the_target() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 6)).eval()
    new = actswap.convert(model, "acon_c", ROWS.clone()).model
    x = ROWS.clone()
    new(x)
    assert torch.equal(x, ROWS)


class Twitching(nn.Module):
    """An observed run differs from a plain one in the fifth digit, as a detector's does that amplifies a rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (1 + 2e-4 * (torch._C._len_torch_function_stack() == 0))


def test_a_model_whose_runs_differ_is_isolated_all_the_same() -> None:
    report = actswap.convert(Twitching().eval(), "acon_c", torch.randn(4, 6)).report
    assert len(report.replaced) == 2 and not report.left


def test_a_slice_that_is_written_to_can_be_trained() -> None:
    model = alias(through_a_slice, act=nn.ReLU(inplace=True))
    new = actswap.convert(model, "acon_c", ROWS, verify=False).model.train()
    new(ROWS).sum().backward()
    assert all(p.grad is not None for p in new.parameters())
