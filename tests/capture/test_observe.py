"""What tracing an island must keep: modes, randomness, buffers, constants, and the model where it fails."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from island_modules import ROUNDING, Base, Patches, X, build, converted
from torch import Tensor, nn

import actswap


class Dropping(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = F.dropout(F.silu(self.a(x)), 0.5, training=self.training)
        if self.training:
            return self.b(F.silu(y))
        return self.b(F.silu(y)) + 1


def test_training_is_not_frozen() -> None:
    model = build(Dropping)
    new = converted(model, X)
    assert torch.equal(new(X), new(X))
    torch.testing.assert_close(new(X), model(X))
    model.train()
    new.train()
    torch.manual_seed(3)
    expected = model(X)
    torch.manual_seed(3)
    torch.testing.assert_close(new(X), expected)
    assert not torch.equal(new(X), expected)  # dropout draws again
    new.eval()
    assert torch.equal(new(X), new(X))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_every_module_is_kept(training: bool) -> None:
    model = build(Patches).train(training)
    model.block.eval()
    modes = [m.training for m in model.modules()]
    new = converted(model, torch.randn(1, 3, 8, 8))
    assert [m.training for m in model.modules()] == modes
    assert [m.training for n, m in new.named_modules() if n in dict(model.named_modules())] == modes


class Branching(Base):
    """Its way depends on the data, which no trace can follow; and a free function makes the call."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(doubled_where_positive(self.a(x)))


def doubled_where_positive(x: Tensor) -> Tensor:
    y = F.silu(x)
    return y * 2 if y.sum() > 0 else y


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.first, self.branching = nn.SiLU(), nn.Linear(6, 6), Branching()

    def forward(self, x: Tensor) -> Tensor:
        return self.branching(self.act(self.first(x)))


def snapshot(model: nn.Module) -> list[tuple[str, type, list[str], list[str]]]:
    return [(n, type(m), sorted(vars(m)), list(m._modules)) for n, m in model.named_modules()]


def test_a_failed_trace_leaves_nothing_and_is_told() -> None:
    model = build(Holder)
    before, state = snapshot(model), {k: v.clone() for k, v in model.state_dict().items()}
    sites = actswap.scan(model, X)
    assert [(s.name, s.how) for s in sites] == [("act", "swap"), ("branching.silu", "left")]
    assert "control flow" in sites[1].reason
    result = actswap.convert(model, "acon_c", X, tolerance=ROUNDING)
    assert [entry.site.name for entry in result.report.left] == ["branching.silu"]
    assert result.report.census is not None and result.report.census.complete
    assert snapshot(model) == before
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


class Constants(Base):
    """Tensors made in forward without looking at the input."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.silu(self.a(x)) + torch.arange(6.0)) * torch.tensor(2.0)


def test_constants_made_in_forward() -> None:
    model = build(Constants)
    before = snapshot(model)
    new = converted(model, X)
    assert snapshot(model) == before, "scanning and converting leave the model as it was"
    torch.testing.assert_close(new(X), model(X))
    assert set(new.state_dict()) - set(model.state_dict()) == {
        f"silu.{name}" for name in ("p1", "p2", "log_beta", "beta_sign")
    }
    back = actswap.revert(new)
    assert snapshot(back) == before
    double = converted(build(Constants).double(), X.double())
    torch.testing.assert_close(double(X.double()), build(Constants).double()(X.double()))


class Counting(Base):
    """Keeps state in a buffer and in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.a(x))
        if self.training:
            self.seen.add_(1)
            self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        return self.b(y - self.mean)


def test_buffers_that_a_forward_writes() -> None:
    model = build(Counting)
    new = converted(model, X)
    assert float(model.seen) == float(new.seen) == 0.0
    for m in (model, new):
        m.train()
        m(X)
        m(X)
    assert float(model.seen) == float(new.seen) == 2.0
    torch.testing.assert_close(new.mean, model.mean)
    torch.testing.assert_close(new(X), model(X))


class RandomDepth(Base):
    """Drops its block with Python's or torch's generator: a trace would freeze one draw."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.a(x))
        if self.training and self.draw() < 0.5:
            return y
        return self.b(y)


@pytest.mark.parametrize("draw", [random.random, lambda: float(torch.rand(()))], ids=["python", "torch"])
def test_a_random_branch_is_not_frozen(draw: Callable[[], float]) -> None:
    """Tracing is refused; the source is rewritten instead, and keeps drawing."""
    model = build(lambda: RandomDepth(draw))
    new = converted(model, X).train()
    outs = [new(X).detach() for _ in range(40)]
    assert len({float(y.sum()) for y in outs}) > 1, "one of 2**39 honest runs draws the same way 40 times"


class Noisy(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.a(x))
        if self.training:
            y = y + torch.rand(6) + torch.randn_like(y)
        return self.b(y)


def test_noise_is_drawn_anew_or_refused() -> None:
    model = build(Noisy)
    (site,) = actswap.scan(model, X)
    if site.how == "left":
        assert "random" in site.reason
        return
    new = converted(model, X).train()
    assert not torch.equal(new(X), new(X))


class Nested(Base):
    """Unregistered helpers, an inner function, and several results."""

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        def half(v: Tensor) -> Tensor:
            return F.silu(v) / 2

        y = half(self.a(x)) + nn.SiLU()(x)
        return self.b(y), {"inner": half(y)}


def test_helpers_and_nested_results() -> None:
    model = build(Nested)
    new = converted(model, X)
    assert actswap.verify(model, new, X).rel <= ROUNDING
    assert len(actswap.plan_of(new).choices) == 3


class AttributeOfTensor(Base):
    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[0], x.size(1)
        y = F.silu(self.a(x)).view(n, c).to(x.dtype).to(x.device)
        return self.b(F.silu(y)) * (c**-0.5)


def test_shapes_dtypes_and_devices_are_read_when_it_runs() -> None:
    model = build(AttributeOfTensor)
    new = converted(model, X)
    for rows in (2, 7):
        torch.testing.assert_close(new(X[:1].expand(rows, 6)), model(X[:1].expand(rows, 6)))
    torch.testing.assert_close(new.double()(X.double()), model.double()(X.double()))
