"""Networks as strangers write them: whatever stands around a call, it is found, replaced, proved and reverted."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import actswap
from actswap.capture.observe import tensors_of

WIDTH = 8
X = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers; what is between them differs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)


def counted(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A user's decorator: counts the calls on the object."""

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return forward(self, *args, **kwargs)

    return wrapper


class Mixin:
    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class MixedIn(Mixin, Net):
    def activate(self, x: Tensor) -> Tensor:
        return super().activate(x) + F.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.activate(self.a(x)))


class Decorated(Net):
    @counted
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Property(Net):
    kind = "silu"

    @property
    def act(self) -> Callable[[Tensor], Tensor]:
        return {"silu": F.silu, "relu": F.relu}[self.kind]

    def forward(self, x: Tensor) -> Tensor:
        return self.b(getattr(F, "elu")(self.a(self.act(x))))  # noqa: B009


class Partial(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = functools.partial(F.leaky_relu, negative_slope=0.2)
        self.quick = lambda t: t * torch.sigmoid(1.702 * t)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.quick(self.act(self.a(x))))


class LookedUp(Net):
    def __init__(self) -> None:
        super().__init__()
        self.acts, self.kind = nn.ModuleDict({"gelu": nn.GELU(), "relu": nn.ReLU()}), "gelu"

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.acts[self.kind](self.a(self.acts["relu"](x))))


@dataclasses.dataclass(frozen=True)
class Config:
    act: Callable[[Tensor], Tensor] = F.relu
    depth: int = 3


class Configured(Net):
    def __init__(self, config: Config = Config()) -> None:
        super().__init__()
        self.config, self.layers = config, nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(config.depth))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            h = layer(x)
            if i < self.config.depth - 1:
                h = self.config.act(h)
            x = x + h
        return x


class Loop(Net):
    """Runs until what it computes is small. `F.tanh` is written in Python, `abs` leaves a ReLU as it is."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.tanh(self.a(x))
            if float(x.abs().mean().detach()) < 0.01:
                break
        rounds = 0
        while rounds < 3:
            x = F.relu(self.b(x))
            if float(x.abs().mean().detach()) < 0.01:
                break
            rounds += 1
        return self.a(x)


class Mapped(Net):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, WIDTH, WIDTH) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.vmap(lambda w: torch.relu(x @ w))(self.weights).sum(0))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.shift = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        weights = dict(self.base.named_parameters())
        weights["0.bias"] = weights["0.bias"] + self.shift
        return torch.func.functional_call(self.base, weights, (x,))


class Slices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.f = nn.Sequential(nn.Linear(WIDTH, WIDTH), act, nn.Linear(WIDTH, WIDTH), act, nn.Linear(WIDTH, WIDTH), act)

    def forward(self, x: Tensor) -> Tensor:
        h = self.f[:2](x)
        return self.f[2:](h) + self.f[4:](h)


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


class Structured(Net):
    def forward(self, x: Tensor) -> dict[str, Any]:
        h = F.hardswish(self.a(x))
        return {"pair": Pair(self.b(h), h), "more": [h.mean()]}


class Own(Tensor):
    """A subclass of the user's."""


class Subclass(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x.as_subclass(Own)))
        assert isinstance(h, Own)
        return self.b(h).as_subclass(Tensor)


class Parent(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Child(Parent):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class Kind(enum.Enum):
    RELU = "relu"


TABLE = {Kind.RELU: F.relu}


class Enumerated(Net):
    def forward(self, *xs: Tensor) -> Tensor:
        return self.b(h if (h := TABLE[Kind.RELU](self.a(*xs))).dim() > 1 else h[None])


class Checkpointing(Net):
    gradient_checkpointing = True

    def inner(self, x: Tensor) -> Tensor:
        return F.dropout(F.gelu(self.a(x)), 0.2, self.training)

    def forward(self, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training:
            x = checkpoint(self.inner, x, use_reentrant=False)
        else:
            x = self.inner(x)
        return F.relu(self.b(x))


SITES = {
    MixedIn: 2,
    Decorated: 1,
    Property: 2,
    Partial: 2,
    LookedUp: 2,
    Configured: 2,
    Loop: 6,
    Mapped: 1,
    Functional: 1,
    Slices: 4,
    Structured: 1,
    Subclass: 1,
    Child: 2,
    Enumerated: 1,
    Checkpointing: 2,
}


def outputs(model: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [t.clone() for t in tensors_of(model.eval()(X))]


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    model = copy.deepcopy(model).train()
    torch.manual_seed(1)
    sum(t.square().sum() for t in tensors_of(model(X))).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("kind", SITES, ids=lambda kind: kind.__name__)
def test_it_is_replaced_and_computes_the_same(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    result = actswap.convert(model, "acon_c", X, start="morph")
    assert len(result.report.replaced) == SITES[kind], [(e.site.name, e.reason) for e in result.report.left]
    assert not result.report.left
    proof = result.report.proof
    assert proof is not None and all(check.passed for check in proof.checks), [c.said for c in proof.checks]
    before, after = outputs(model), outputs(result.model)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)
    expected, found = gradients(model), gradients(result.model)
    for name, gradient in expected.items():
        assert (gradient is None) == (found[name] is None)
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(actswap.revert(result.model)), strict=True))
