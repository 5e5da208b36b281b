"""Islands: a module's own traced forward, for every way in which forwards are called."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
from actswap.errors import CaptureError

# The start of ACON for SiLU is exact, so an island that is right gives the model's output up to rounding.
ROUNDING = 1e-5


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)


class NoneDefault(Base):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = F.silu(self.a(x))
        if mask is not None:
            y = y * mask
        return self.b(F.silu(y))


class KeywordOnly(Base):
    def forward(self, x: Tensor, *, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
        y = F.silu(self.a(x)) * scale
        return self.b(F.silu(y if bias is None else y + bias))


class Keywords(Base):
    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        y = F.silu(self.a(x))
        return self.b(F.silu(y + kwargs["shift"] if "shift" in kwargs else y))


class Stars(Base):
    def forward(self, *inputs: Tensor) -> Tensor:
        y = inputs[0]
        for other in inputs[1:]:
            y = y + other
        return self.b(F.silu(F.silu(self.a(y))))


class Lists(Base):
    def forward(self, xs: list[Tensor], named: dict[str, Tensor]) -> dict[str, Any]:
        ys = [F.silu(self.a(x)) for x in xs]
        return {"sum": F.silu(sum(ys) + self.b(named["extra"])), "all": tuple(ys)}


class Flags(Base):
    def forward(self, x: Tensor, mode: str, twice: bool, size: tuple[int, int]) -> Tensor:
        y = F.silu(self.a(x))
        if mode == "add":
            y = y + 1
        if twice:
            y = F.silu(y)
        return self.b(y.reshape(-1, *size))


def decorated(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("shift", 0.5)
        return forward(self, *args, **kwargs)

    return wrapper


class Decorated(Base):
    @decorated
    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return self.b(F.silu(F.silu(self.a(x)) + shift))


class Sizes(nn.Module):
    """Tokens with their grid, as in segformer: numbers that change with the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.conv, self.b = nn.Linear(6, 6), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Linear(6, 6)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        n, _, channels = x.shape
        y = self.a(x).transpose(1, 2).reshape(n, channels, height, width)
        y = F.silu(self.conv(y)).flatten(2).transpose(1, 2)
        return self.b(F.silu(y))


class Patches(nn.Module):
    """Calls Sizes with the size of its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 6, 2, 2), Sizes()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if y.shape[-1] > 1000:
            raise ValueError("too large")
        return self.block(y.flatten(2).transpose(1, 2), y.shape[2], y.shape[3])


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
CALLS: list[tuple[type[nn.Module], tuple[Any, ...], dict[str, Any]]] = [
    (NoneDefault, (X,), {}),
    (NoneDefault, (X, None), {}),
    (NoneDefault, (X, X > 0), {}),
    (NoneDefault, (X,), {"mask": X}),
    (KeywordOnly, (X,), {}),
    (KeywordOnly, (X,), {"scale": 2.0, "bias": X}),
    (Keywords, (X,), {}),
    (Keywords, (X,), {"shift": X}),
    (Keywords, (), {"x": X, "shift": 2.0}),
    (Stars, (X,), {}),
    (Stars, (X, X, X), {}),
    (Lists, ([X, X], {"extra": X}), {}),
    (Flags, (X, "add", True, (2, 6)), {}),
    (Flags, (X, "mul", False, (4, 6)), {}),
    (Decorated, (X,), {}),
    (Decorated, (X,), {"shift": 2.0}),
    (Sizes, (X[:, None].expand(4, 12, 6), 3, 4), {}),
]


def build(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def converted(model: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> nn.Module:
    return actswap.convert(model, "acon_c", args, kwargs, tolerance=ROUNDING).model


@pytest.mark.parametrize(("kind", "args", "kwargs"), CALLS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_forward_of_any_signature_becomes_an_island(
    kind: type[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    model = build(kind)
    sites = actswap.scan(model, args, kwargs)
    assert sites
    assert {s.how for s in sites} == {"island"}
    result = actswap.convert(model, "acon_c", args, kwargs, tolerance=ROUNDING)
    assert result.report.census is not None and result.report.census.complete
    assert len(result.report.replaced) == len(sites)
    assert isinstance(result.model, kind)
    assert result.model.state_dict().keys() >= model.state_dict().keys()
    result.model.train()
    model.train()
    assert actswap.verify(model, result.model, args, kwargs).rel <= ROUNDING


def test_positional_keyword_and_default_are_one_call() -> None:
    model = build(NoneDefault)
    new = converted(model, X)
    with torch.no_grad():
        expected = model(X)
        for out in (new(X), new(x=X), new(X, None), new(X, mask=None)):
            torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_batch_stays_dynamic(rows: int) -> None:
    model = build(NoneDefault)
    new, x = converted(model, X), torch.randn(rows, 6)
    torch.testing.assert_close(new(x), model(x))


def test_sizes_stay_dynamic() -> None:
    model = build(Patches)
    new = converted(model, torch.randn(1, 3, 8, 8))
    for shape in ((1, 3, 8, 8), (2, 3, 12, 8), (3, 3, 6, 10)):
        x = torch.randn(shape)
        torch.testing.assert_close(new(x), model(x))


def test_a_free_number_that_is_a_float_keeps_its_effect() -> None:
    model = build(KeywordOnly)
    new = converted(model, (X,), {"scale": 2.0})
    torch.testing.assert_close(new(X, scale=5.0), model(X, scale=5.0))


def test_another_call_than_the_captured_is_refused_with_the_fix() -> None:
    new = converted(build(NoneDefault), X)
    with pytest.raises(CaptureError, match="converted for other arguments") as caught:
        new(X, X)
    assert "convert the original model again" in caught.value.fix
    assert "tensor" in caught.value.why


def test_another_constant_than_the_captured_is_refused() -> None:
    new = converted(build(Flags), (X, "add", True, (2, 6)))
    with pytest.raises(CaptureError, match="converted for other arguments"):
        new(X, "mul", True, (2, 6))


class Twice(nn.Module):
    """One island, called with and without a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.block = NoneDefault()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x), x > 0)


def test_an_island_has_a_variant_for_each_way_it_is_called() -> None:
    model = build(Twice)
    result = actswap.convert(model, "acon_c", X, tolerance=ROUNDING)
    assert [len(i.calls) for i in result.plan.islands] == [2]
    assert [r.site.calls for r in result.report.replaced] == [2, 2]
    torch.testing.assert_close(result.model(X), model(X))


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
    outs = [new(X) for _ in range(40)]
    assert 1 < len({float(y.sum()) for y in outs}), "one of 2**39 honest runs draws the same way 40 times"


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


def test_the_traced_source_shows_in_tracebacks() -> None:
    new = converted(build(NoneDefault), X)
    with pytest.raises(RuntimeError) as caught:
        new(torch.randn(4, 7))
    assert any("actswap island" in str(entry.path) for entry in caught.traceback)


def test_islands_can_be_copied() -> None:
    import copy

    model = build(NoneDefault)
    new = converted(model, X)
    twin = copy.deepcopy(new)
    assert torch.equal(twin(X), new(X))
    with torch.no_grad():
        twin.a.weight.zero_()
    assert not torch.equal(twin(X), new(X))
    assert type(actswap.revert(twin)) is NoneDefault
