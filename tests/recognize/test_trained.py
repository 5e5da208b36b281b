"""Parameters that a formula holds are never folded into numbers: they train on, or the site is left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers, and scalars of the shape asked for."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()
        for name, value in {"gain": 1.0, "bias": 0.0, "beta": 1.5, "slope": 0.25}.items():
            self.register_parameter(name, nn.Parameter(torch.full(shape or (), value)))
        self.register_buffer("low", torch.zeros(shape))


class Around(Net):
    """A gain of one and a bias of zero, as Fixup has them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)) * self.gain + self.bias)


class AroundTwice(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class Swish(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(F.relu(self.a(x * torch.sigmoid(self.beta * x))))


class Leaky(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(F.relu(self.a(torch.maximum(x, self.slope * x))))


class Bound(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(self.a(x).clamp(min=self.low))))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", [Around, AroundTwice, Swish, Leaky, Bound])
def test_every_parameter_and_buffer_keeps_its_effect(kind: type[Net], shape: tuple[int, ...]) -> None:
    model = kind(shape).eval()
    result = actswap.convert(model, "acon_c", X, start="morph")
    new = result.model
    assert result.report.replaced
    for network in (model, new):
        network.zero_grad()
        network.train()(X).square().sum().backward()
    grads = dict(new.named_parameters())
    for name, p in model.named_parameters():
        assert (p.grad is None) == (grads[name].grad is None), name
        torch.testing.assert_close(grads[name].grad, p.grad)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            moved = tensor * 1.1 + 0.2
            for network in (model, new):
                (dict(network.named_parameters()) | dict(network.named_buffers()))[name].copy_(moved)
        torch.testing.assert_close(new(X), model(X))


@pytest.mark.parametrize(("kind", "name"), [(Swish, "beta"), (Leaky, "slope")])
def test_a_parameter_inside_a_formula_is_the_reason_why_its_site_is_left(kind: type[Net], name: str) -> None:
    left = [s for s in actswap.scan(kind().eval(), X) if s.how == "left"]
    assert len(left) == 1 and f"is {name} of the model" in left[0].reason


def test_the_parameters_of_an_activation_go_with_it_unless_several_calls_share_them() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act = nn.Linear(4, 4), nn.PReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.a(self.act(self.a(self.act(self.a(x)))))

    (alone,) = actswap.scan(nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4)), X)
    assert alone.how == "swap" and alone.source.trained
    assert [s.how for s in actswap.scan(Shared(), X)] == ["left", "left"]
    assert all("several calls share" in s.reason for s in actswap.scan(Shared(), X))
