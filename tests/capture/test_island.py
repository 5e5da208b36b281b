"""Islands: a module's own traced forward, for every way in which forwards are called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from island_modules import ROUNDING, Base, Patches, Sizes, X, build, converted
from torch import Tensor, nn

import actswap
from actswap.errors import CaptureError

# The start of ACON for SiLU is exact, so an island that is right gives the model's output up to rounding.


class NoneDefault(Base):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.again(self.a(x))
        if mask is not None:
            y = y * mask
        return self.b(self.again(y))


class KeywordOnly(Base):
    def forward(self, x: Tensor, *, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
        y = self.again(self.a(x)) * scale
        return self.b(self.again(y if bias is None else y + bias))


class Keywords(Base):
    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        y = self.again(self.a(x))
        return self.b(self.again(y + kwargs["shift"] if "shift" in kwargs else y))


class Stars(Base):
    def forward(self, *inputs: Tensor) -> Tensor:
        y = inputs[0]
        for other in inputs[1:]:
            y = y + other
        return self.b(self.again(self.again(self.a(y))))


class Lists(Base):
    def forward(self, xs: list[Tensor], named: dict[str, Tensor]) -> dict[str, Any]:
        ys = [self.again(self.a(x)) for x in xs]
        return {"sum": self.again(sum(ys) + self.b(named["extra"])), "all": tuple(ys)}


class Flags(Base):
    def forward(self, x: Tensor, mode: str, twice: bool, size: tuple[int, int]) -> Tensor:
        y = self.again(self.a(x))
        if mode == "add":
            y = y + 1
        if twice:
            y = self.again(y)
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
        return self.b(self.again(self.again(self.a(x)) + shift))


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
