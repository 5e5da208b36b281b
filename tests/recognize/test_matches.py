"""Every spelling of a formula is one site of its kind; what only looks like one is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from formula_spellings import CASES, Between, Function, matches
from torch import Tensor, nn
from torch.distributions import Normal

from actswap.activations.plain import evaluate
from actswap.conversion.survey import scan


@pytest.mark.parametrize(("kind", "function"), CASES)
def test_a_spelling_is_one_activation(kind: str, function: Function) -> None:
    found = matches(function)
    assert [m.source.kind for m in found] == [kind]
    x = torch.linspace(-5, 5, 505).reshape(-1, 5)
    # What the recognizer says the source is computes what the code computes; constants of four digits are the limit.
    assert torch.allclose(evaluate(found[0].source, x), function(x), atol=5e-3)


def _kinds(function: Function) -> list[str]:
    return [s.source.kind for s in scan(Between(function), torch.randn(4, 5))]


def _shared_sigmoid(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return x * s + s.flip(0)


def _shared_relu(x: Tensor) -> Tensor:
    y = F.relu(x)
    return y**2 + y.flip(0)


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (lambda x: x * torch.sigmoid(x.flip(0)), ["sigmoid"]),
        (lambda x: x * torch.sigmoid(x + 1), ["formula"]),
        (lambda x: x.flip(0) * torch.sigmoid(x), ["sigmoid"]),
        (lambda x: x**2 * torch.sigmoid(x), ["formula"]),
        (lambda x: x - torch.sigmoid(x), ["sigmoid"]),
        (lambda x: 0.5 * x * (1 + torch.erf(x)), ["formula"]),
        (lambda x: 0.7 * x * (1 + torch.erf(x / 2**0.5)), ["formula"]),
        (lambda x: x * F.relu6(x + 2) / 6, ["formula"]),
        (lambda x: F.relu6(x + 3) / 5, ["relu6"]),
        (lambda x: x.clamp(0, 5), ["hardtanh"]),
        (lambda x: x.clamp(max=0), []),
        (lambda x: torch.maximum(x, torch.tensor(1.0)), []),
        (lambda x: torch.maximum(x, 2.0 * x), ["formula"]),
        (lambda x: torch.where(x > 1, x, 0.1 * x), ["formula"]),
        (lambda x: torch.where(x > 0, 0.1 * x, x), ["formula"]),
        (lambda x: torch.log(2 + torch.exp(x)), ["formula"]),
        (lambda x: x * torch.sigmoid(1.702 * x.flip(0)), ["sigmoid"]),
        (lambda x: x + x.abs(), ["formula"]),
        (lambda x: x**2, ["formula"]),
        (lambda x: x / (1 + torch.exp(x.flip(0))), []),
        (lambda x: 1 / (1 + torch.exp(x)), ["formula"]),
        (lambda x: F.relu(x) * F.relu(x.flip(0)), ["relu", "relu"]),
        (lambda x: F.relu(x) - 0.1 * F.relu(-x.flip(0)), ["relu", "relu"]),
        (lambda x: torch.cos(x) * x, ["formula"]),
        # A guard against large numbers stays behind the target, and the ReLU in front of it is the site.
        (lambda x: F.relu(x).clamp(max=65504), ["relu"]),
        (lambda x: x.clamp(min=1e-6), []),
        (lambda x: F.relu6(x * 2), ["relu6"]),
        (lambda x: x * (x.flip(0) > 1), []),
        (lambda x: x.masked_fill(x.flip(0) < 0, 0), []),
        (lambda x: torch.clamp(x, min=torch.arange(5.0)), []),
        (lambda x: x * Normal(0.0, 1.0).cdf(x), ["gelu"]),
        (lambda x: x * Normal(0.0, 2.0).cdf(x), ["formula"]),
        (lambda x: torch.minimum(x, torch.tensor(6.0)), []),
        (lambda x: -x, []),
        (lambda x: _shared_sigmoid(x), ["sigmoid", "silu"]),
        (lambda x: _shared_relu(x), ["relu", "relu2"]),
        (lambda x: (x * torch.sigmoid(x)) * 1.0, ["silu"]),
    ],
)
def test_near_misses(function: Function, kinds: list[str]) -> None:
    assert _kinds(function) == kinds


def test_integer_arithmetic_is_no_activation() -> None:
    class Index(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(10, 4), nn.Linear(4, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(F.relu(self.table(ids.clamp(min=0))))

    assert [s.source.kind for s in scan(Index(), torch.arange(4))] == ["relu"]


class Boxes(nn.Module):
    """What detectors do behind their heads: none of the clamps shapes features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        deltas = self.head(torch.relu(self.conv(x)).mean((2, 3)))
        size = deltas[:, 2:].clamp(max=4.0).exp()
        centre = anchors + deltas[:, :2]
        boxes = torch.cat([(centre - size / 2).clamp(min=0), (centre + size / 2).clamp(0, 64)], 1)
        overlap = (boxes[:, None, 2:] - boxes[None, :, 2:]).clamp(min=0)
        area = torch.maximum(boxes[:, 2] - boxes[:, 0], torch.tensor(0.0))
        return boxes, overlap, area


def test_box_arithmetic_is_no_activation() -> None:
    sites = scan(Boxes(), (torch.randn(2, 3, 8, 8), torch.randn(2, 2)))
    assert [s.source.kind for s in sites] == ["relu"]


def test_the_maximum_of_two_layers_is_no_activation() -> None:
    class Maxout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.maximum(self.a(x), self.b(x)))

    assert scan(Maxout(), torch.randn(2, 4)) == []
