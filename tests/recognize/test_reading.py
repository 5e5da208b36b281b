"""Operations are read as expressions: the same from a tape as from a graph; trained constants keep their names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from formula_spellings import CASES, Between, Function, V, matches
from torch import Tensor, nn

from actswap.activations.plain import evaluate
from actswap.capture.arguments import Arguments
from actswap.capture.island import graph_ops, trace
from actswap.capture.observe import observe
from actswap.recognize.matches import find


@pytest.mark.parametrize(("kind", "function"), CASES)
def test_the_graph_shows_what_the_tape_shows(kind: str, function: Function) -> None:
    owner = Between(function)
    traced = trace(owner, Arguments.of((torch.zeros(1),), {}), frozenset(), strict=False)  # globals may be read
    ops, values = graph_ops(traced.evaluate, owner)
    assert [m.source.kind for m in find(ops, values)] == [kind]


@pytest.mark.parametrize(
    ("function", "constants"),
    [
        (lambda x: x * torch.sigmoid(1.5 * x), {"beta": 1.5}),
        (lambda x: x / (1 + torch.exp(-2.5 * x)), {"beta": 2.5}),
        (lambda x: torch.maximum(x, 0.07 * x), {"slope": 0.07}),
        (lambda x: torch.where(x > 0, x, 0.3 * x), {"slope": 0.3}),
        (lambda x: F.relu(x) - 0.3 * F.relu(-x), {"slope": 0.3}),
        (lambda x: torch.where(x > 0, x, 0.7 * (torch.exp(x) - 1)), {"alpha": 0.7}),
        (lambda x: 0.8 * F.relu(x) ** 2 - 0.4, {"scale": 0.8, "bias": -0.4}),
        (lambda x: F.hardtanh(x, -2, 3), {"low": -2.0, "high": 3.0}),
        (lambda x: F.leaky_relu(x, 0.2), {"slope": 0.2}),
        (F.leaky_relu, {"slope": 0.01}),
        (lambda x: F.softplus(x, 2.0, 10.0), {"beta": 2.0, "threshold": 10.0}),
        (lambda x: F.elu(x, alpha=0.3), {"alpha": 0.3}),
        (lambda x: F.threshold(x, 0.5, 0.1), {"threshold": 0.5, "value": 0.1}),
        (lambda x: F.hardshrink(x, 0.3), {"lambd": 0.3}),
        (lambda x: x * torch.sigmoid(V * x), {"beta": tuple(V.tolist())}),
        (lambda x: F.prelu(x, V), {"slope": tuple(V.tolist())}),
    ],
)
def test_constants_are_read(function: Function, constants: dict[str, object]) -> None:
    (match,) = matches(function)
    read = dict(match.source.params)
    assert read.keys() == constants.keys()
    for name, value in constants.items():
        assert read[name] == pytest.approx(value, rel=1e-6)


class Trained(nn.Module):
    """A formula with parameters and buffers of its module, between two layers."""

    def __init__(self, function: Callable[[Trained, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.before, self.after = function, nn.Linear(5, 5), nn.Linear(5, 5)
        self.one, self.v = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor([0.5, 0.9, 1.3, 1.0, 0.7]))
        self.p, self.q = nn.Parameter(torch.linspace(0.8, 1.3, 5)), nn.Parameter(torch.linspace(-0.4, 0.2, 5))
        self.zero, self.row = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.linspace(0.1, 0.5, 5).view(1, 5))
        self.register_buffer("c", torch.tensor(0.5**0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self, self.before(x)))


# What it is, and which tensors of the module are constants of it.
WITH_PARAMETERS: list[tuple[str, set[str], Callable[[Trained, Tensor], Tensor]]] = [
    ("swish", {"one"}, lambda m, x: x * torch.sigmoid(m.one * x)),
    ("swish", {"v"}, lambda m, x: x * (x * m.v.view(1, -1).to(x.dtype)).sigmoid() / 1.7),
    ("swish", {"v"}, lambda m, x: x * torch.sigmoid(m.v.unsqueeze(0) * x)),
    ("swish", {"one"}, lambda m, x: x * torch.sigmoid(torch.exp(m.one.reshape(1, 1)) * x)),
    ("swish", {"one"}, lambda m, x: x * torch.sigmoid(m.one.square() * x)),
    ("swish", {"v"}, lambda m, x: x / (1 + torch.exp(-m.v * x))),
    ("swish", {"row"}, lambda m, x: x.mul((m.row.expand_as(x) * x).sigmoid())),
    ("prelu", {"v"}, lambda m, x: F.prelu(x, m.v)),
    ("prelu", {"v"}, lambda m, x: torch.where(x > 0, x, m.v * x)),
    ("prelu", {"zero"}, lambda m, x: torch.where(x > 0, x, m.zero * x)),
    ("prelu", {"zero"}, lambda m, x: torch.maximum(x, torch.zeros_like(x)) + m.zero * x.clamp(max=0)),
    ("prelu", {"one"}, lambda m, x: F.relu(x) + m.one * (x - x.abs()) * 0.5),
    ("prelu", {"row"}, lambda m, x: F.relu(x) - m.row * F.relu(-x)),
    ("snake", {"v"}, lambda m, x: x + torch.sin(m.v * x) ** 2 / m.v),
    ("snake", {"one"}, lambda m, x: x + (1.0 / (m.one + 1e-9)) * torch.pow(torch.sin(x * m.one), 2)),
    ("snake", {"v"}, lambda m, x: x + (1 - torch.cos(2 * m.v * x)) / (2 * m.v)),
    ("elu", {"one"}, lambda m, x: torch.where(x > 0, x, m.one * torch.expm1(x))),
    ("star_relu", {"one", "zero"}, lambda m, x: m.one * F.relu(x) ** 2 + m.zero),
    ("acon_c", {"p", "q", "v"}, lambda m, x: (m.p * x - m.q * x) * (m.v * (m.p * x - m.q * x)).sigmoid() + m.q * x),
    ("acon_c", {"p", "q", "one"}, lambda m, x: (d := (m.p - m.q) * x) * torch.sigmoid(m.one * d) + m.q * x),
    # A gain or a bias that is trained stays in the graph.
    ("relu", set(), lambda m, x: F.relu(x) * m.one),
    ("relu", set(), lambda m, x: F.relu(x) + m.zero),
    ("silu", set(), lambda m, x: x * x.sigmoid() * m.one),
    ("relu", set(), lambda m, x: F.relu(x * m.one + m.zero)),
    ("formula", set(), lambda m, x: m.p * torch.sin(m.v * x) + m.q),
    # So is a bound, or a constant that is a buffer: it may be loaded anew.
    ("formula", {"zero"}, lambda m, x: x.clamp(min=m.zero)),
    ("formula", {"c"}, lambda m, x: 0.5 * x * (1 + torch.erf(x * m.c))),
    ("formula", {"v", "p"}, lambda m, x: x * torch.tanh(m.v * x + m.p)),
]


@pytest.mark.parametrize(("kind", "names", "function"), WITH_PARAMETERS)
def test_parameters_are_never_folded(kind: str, names: set[str], function: Callable[[Trained, Tensor], Tensor]) -> None:
    model = Trained(function)
    tape = observe(model, (torch.randn(4, 5),))
    (match,) = find(tape.ops, tape.values, tape.outputs)
    assert match.source.kind == kind
    assert {name for _, name in match.source.trained} == names
    if names:
        x = torch.linspace(-5, 5, 505).reshape(-1, 5)
        torch.testing.assert_close(
            evaluate(match.source, x) * _scale(function), function(model, x), atol=1e-4, rtol=1e-4
        )
    ops, values = graph_ops(trace(model, Arguments.of((torch.zeros(1),), {}), frozenset()).evaluate, model)
    assert [m.source.kind for m in find(ops, values)] == [kind]


def _scale(function: Callable[[Trained, Tensor], Tensor]) -> float:
    return 1 / 1.7 if 1.7 in function.__code__.co_consts else 1.0
