"""Every spelling of a formula is one site of its kind; what only looks like one is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from actswap.activations.plain import evaluate
from actswap.capture.arguments import Arguments
from actswap.capture.island import graph_ops, trace
from actswap.capture.observe import observe
from actswap.conversion.survey import scan
from actswap.recognize.matches import Match, find

Function = Callable[[Tensor], Tensor]
V = nn.Parameter(torch.tensor([0.5, 0.9, 1.3, 1.0, 0.7]))
ROOT = math.sqrt(2 / math.pi)

SPELLINGS: dict[str, list[Function]] = {
    "silu": [
        lambda x: x * torch.exp(F.logsigmoid(x)),
        lambda x: (x * x.sigmoid()) / 1,
        F.silu,
        lambda x: F.silu(x, inplace=False),
        lambda x: x * torch.sigmoid(x),
        lambda x: torch.sigmoid(x) * x,
        lambda x: x * x.sigmoid(),
        lambda x: x.sigmoid() * x,
        lambda x: x * F.sigmoid(x),
        lambda x: x * torch.special.expit(x),
        lambda x: x.mul(x.sigmoid()),
        lambda x: torch.mul(F.sigmoid(x), x),
        lambda x: torch.multiply(x, torch.sigmoid(x)),
        lambda x: x / (1 + torch.exp(-x)),
        lambda x: x / (torch.exp(-x) + 1),
        lambda x: x * (1 / (1 + torch.exp(-x))),
        lambda x: x * torch.reciprocal(1 + (-x).exp()),
        lambda x: x.div(1 + torch.exp(torch.neg(x))),
        lambda x: x.clone().mul_(x.sigmoid()),
        lambda x: x * torch.sigmoid(1.0 * x),
        lambda x: x * 0.5 * (1 + torch.tanh(x / 2)),
    ],
    "swish": [
        lambda x: x * torch.sigmoid(1.5 * x),
        lambda x: (x * 1.5).sigmoid() * x,
        lambda x: x * torch.sigmoid(x / 0.5),
        lambda x: x / (1 + torch.exp(-1.5 * x)),
        lambda x: x * torch.sigmoid(V * x),
        lambda x: torch.sigmoid(x * V).mul(x),
    ],
    "quick_gelu": [
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: torch.sigmoid(x * 1.702) * x,
        lambda x: x.mul(torch.sigmoid(torch.mul(1.702, x))),
    ],
    "gelu": [
        lambda x: 0.5 * x * torch.special.erfc(-x * 0.70710678),
        F.gelu,
        lambda x: F.gelu(x, approximate="none"),
        lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
        lambda x: 0.5 * x * (1 + torch.erf(x * 0.7071)),
        lambda x: 0.5 * (x * (1 + torch.erf(x / 2**0.5))),
        lambda x: x * (0.5 + 0.5 * torch.erf(x * 2**-0.5)),
        lambda x: x * (torch.erf(x / math.sqrt(2.0)) + 1) * 0.5,
        lambda x: (1 + (x / 2**0.5).erf()) * x / 2,
        lambda x: torch.mul(x, 1 + torch.special.erf(x / math.sqrt(2))).div(2),
        lambda x: x * torch.special.ndtr(x),
        lambda x: 0.5 * x * torch.erfc(-x / math.sqrt(2)),
        lambda x: 0.5 * x * (1 - torch.erf(-x / math.sqrt(2))),
    ],
    "gelu_tanh": [
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3)))),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x * x * x))),
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
        lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
        lambda x: x * torch.sigmoid(2 * ROOT * (x + 0.044715 * x**3)),
        lambda x: (torch.tanh(ROOT * (0.044715 * x.pow(3) + x)) + 1).mul(x).mul(0.5),
    ],
    "mish": [
        F.mish,
        lambda x: x * torch.tanh(F.softplus(x)),
        lambda x: F.softplus(x).tanh() * x,
        lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
        lambda x: x * torch.log1p(x.exp()).tanh(),
        lambda x: x.mul(torch.tanh(F.softplus(x, beta=1, threshold=20))),
        lambda x: x * torch.tanh(-F.logsigmoid(-x)),
        lambda x: x * ((1 + torch.exp(x)) ** 2 - 1) / ((1 + torch.exp(x)) ** 2 + 1),
        lambda x: x * (x.exp() ** 2 + 2 * x.exp()) / (x.exp() ** 2 + 2 * x.exp() + 2),
    ],
    "hardswish": [
        F.hardswish,
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: F.relu6(x + 3) * x / 6,
        lambda x: x * (F.relu6(x + 3.0) / 6.0),
        lambda x: x / 6 * F.relu6(x + 3),
        lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
        lambda x: x * F.hardsigmoid(x),
        lambda x: F.hardsigmoid(x) * x,
        lambda x: x * (x + 3).clamp(0, 6).div(6),
        lambda x: F.relu6(3 + x).mul(1 / 6) * x,
        lambda x: x * F.hardtanh(x + 3, 0, 6) / 6,
        lambda x: x * F.relu6(x.clone().add_(3)).div_(6),
    ],
    "hardsigmoid": [
        lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
        F.hardsigmoid,
        lambda x: F.relu6(x + 3) / 6,
        lambda x: F.relu6(x + 3) * 0.16667,
        lambda x: (x / 6 + 0.5).clamp(0, 1),
        lambda x: (0.5 + x / 6).clamp(min=0, max=1),
        lambda x: (x + 3).clamp(0, 6) / 6,
    ],
    "leaky_relu": [
        lambda x: F.leaky_relu(x, 0.1),
        lambda x: torch.maximum(x, 0.1 * x),
        lambda x: torch.maximum(x * 0.1, x),
        lambda x: torch.max(0.1 * x, x),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: torch.where(x >= 0, x, x * 0.1),
        lambda x: torch.where(x < 0, 0.2 * x, x),
        lambda x: F.relu(x) - 0.1 * F.relu(-x),
    ],
    "relu2": [
        lambda x: F.relu(x) * x,
        lambda x: x * x.relu(),
        lambda x: F.relu(x) ** 2,
        lambda x: F.relu(x).square(),
        lambda x: F.relu(x) * F.relu(x),
        lambda x: torch.square(torch.relu(x)),
        lambda x: torch.pow(F.relu(x), 2),
        lambda x: x.clamp(min=0).pow(2),
    ],
    "star_relu": [
        lambda x: 0.8 * F.relu(x) ** 2 - 0.4,
        lambda x: -0.4 + F.relu(x).square() * 0.8,
        lambda x: torch.add(F.relu(x).pow(2).mul(0.8944), -0.4472),
    ],
    "relu": [
        lambda x: x * torch.heaviside(x, torch.tensor(0.0)),
        lambda x: x * torch.heaviside(x, torch.zeros_like(x)),
        lambda x: torch.fmax(x, torch.tensor(0.0)),
        lambda x: x.fmax(torch.zeros_like(x)),
        F.relu,
        torch.relu,
        lambda x: x.relu(),
        lambda x: x.clone().relu_(),
        lambda x: F.relu(x, inplace=False),
        lambda x: torch.maximum(x, torch.zeros(())),
        lambda x: torch.max(x, torch.tensor(0.0)),
        lambda x: torch.maximum(x, torch.zeros_like(x)),
        lambda x: torch.clamp(x, min=0),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp(0),
        lambda x: x.clone().clamp_(min=0),
        lambda x: torch.clamp_min(x, 0),
        lambda x: x.clip(0),
        lambda x: (x + x.abs()) / 2,
        lambda x: 0.5 * (torch.abs(x) + x),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        lambda x: F.threshold(x, 0, 0),
        lambda x: x * (x > 0),
        lambda x: x.masked_fill(x < 0, 0),
        lambda x: x.clone().masked_fill_(x <= 0, 0.0),
        lambda x: torch.clamp(x, min=torch.tensor(0.0)),
        lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    ],
    "relu6": [
        lambda x: torch.clamp(F.relu(x), max=6),
        lambda x: F.relu(x).clamp(max=6),
        F.relu6,
        lambda x: F.hardtanh(x, 0, 6),
        lambda x: x.clamp(0, 6),
        lambda x: torch.clamp(x, min=0, max=6),
        lambda x: torch.minimum(F.relu(x), torch.tensor(6.0)),
        lambda x: torch.minimum(torch.maximum(x, torch.zeros(())), torch.tensor(6.0)),
        lambda x: x.clamp(min=0).clamp(max=6),
    ],
    "softplus": [
        F.softplus,
        lambda x: torch.log(1 + torch.exp(x)),
        lambda x: torch.log(x.exp() + 1),
        lambda x: torch.log1p(torch.exp(x)),
        lambda x: torch.logaddexp(x, torch.zeros(())),
        lambda x: F.relu(x) + torch.log1p(torch.exp(-x.abs())),
        lambda x: -F.logsigmoid(-x),
    ],
    "sigmoid": [
        torch.sigmoid,
        F.sigmoid,
        lambda x: x.sigmoid(),
        lambda x: 1 / (1 + torch.exp(-x)),
        lambda x: torch.reciprocal(1 + (-x).exp()),
        lambda x: (1 + torch.exp(-x)) ** -1,
        lambda x: 0.5 * (1 + torch.tanh(x / 2)),
    ],
    "elu": [
        lambda x: F.elu(x, 0.7),
        lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
        lambda x: torch.where(x > 0, x, 0.7 * (torch.exp(x) - 1)),
        lambda x: torch.where(x > 0, x, 0.7 * torch.expm1(x)),
        lambda x: torch.where(x <= 0, x.exp() - 1, x),
        lambda x: torch.clamp(x, min=0) + torch.clamp(0.7 * (torch.exp(x) - 1), max=0),
        lambda x: F.relu(x) + torch.minimum(torch.expm1(x), torch.zeros_like(x)),
    ],
    "selu": [
        lambda x: 1.0507 * F.elu(x, 1.67326),
        F.selu,
        lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (torch.exp(x) - 1)),
        lambda x: 1.0507 * (x.clamp(min=0) + (1.67326 * (x.exp() - 1)).clamp(max=0)),
    ],
    "hardtanh": [
        lambda x: F.hardtanh(x, -2, 3),
        lambda x: torch.maximum(torch.minimum(x, torch.tensor(1.0)), torch.tensor(-1.0)),
        lambda x: torch.clamp(x, torch.tensor(-1.0), torch.tensor(1.0)),
    ],
    "celu": [
        lambda x: F.celu(x, 2.0),
        lambda x: torch.clamp(x, min=0) + torch.clamp(2 * (torch.exp(x / 2) - 1), max=0),
        lambda x: torch.where(x > 0, x, 2 * torch.expm1(x / 2)),
    ],
    "threshold": [
        lambda x: F.threshold(x, 0.5, -1.0),
        lambda x: torch.where(x > 0.5, x, -1),
        lambda x: torch.where(x > 0.5, x, torch.full_like(x, -1.0)),
        lambda x: x.masked_fill(x <= 0.5, -1.0),
        lambda x: x * (x > 1),
    ],
    "snake": [
        lambda x: x + torch.sin(1.5 * x) ** 2 / 1.5,
        lambda x: x + (1 / 1.5) * torch.sin(1.5 * x).square(),
    ],
    "tanhexp": [lambda x: x * torch.tanh(torch.exp(x)), lambda x: x.exp().tanh() * x],
    "phish": [lambda x: x * torch.tanh(F.gelu(x)), lambda x: F.gelu(x).tanh().mul(x)],
    "lisht": [lambda x: x * torch.tanh(x), lambda x: torch.tanh(x).mul(x)],
    "max_sigmoid": [lambda x: torch.max(x, torch.sigmoid(x)), lambda x: torch.maximum(x.sigmoid(), x)],
    "cos_minus": [lambda x: torch.cos(x) - x, lambda x: -x + x.cos()],
    "min_sin": [lambda x: torch.min(x, torch.sin(x))],
    "atan2_minus": [lambda x: torch.atan(x) ** 2 - x, lambda x: torch.arctan(x).square() - x],
    "max_tanh": [lambda x: torch.maximum(x, torch.tanh(x))],
    "sinc_plus": [
        lambda x: torch.sinc(x / math.pi) + x,
        lambda x: torch.where(x == 0, 1.0, torch.sin(x) / x) + x,
    ],
    "x_asinh2": [lambda x: x * torch.asinh(x) ** 2, lambda x: x * torch.arcsinh(x).square()],
    "softsign": [F.softsign, lambda x: x / (1 + x.abs())],
    "tanhshrink": [F.tanhshrink, lambda x: x - torch.tanh(x)],
    "logsigmoid": [F.logsigmoid, lambda x: torch.log(torch.sigmoid(x))],
}
CASES = [pytest.param(kind, f, id=f"{kind}-{i}") for kind, fs in SPELLINGS.items() for i, f in enumerate(fs)]


class Between(nn.Module):
    """linear, the function, linear: so that clamps act on features."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function, self.before, self.after, self.v = function, nn.Linear(5, 5), nn.Linear(5, 5), V

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


def matches(function: Function) -> list[Match]:
    tape = observe(Between(function), (torch.randn(4, 5),))
    return find(tape.ops, tape.values)


@pytest.mark.parametrize(("kind", "function"), CASES)
def test_a_spelling_is_one_activation(kind: str, function: Function) -> None:
    found = matches(function)
    assert [m.source.kind for m in found] == [kind]
    x = torch.linspace(-5, 5, 505).reshape(-1, 5)
    # What the recognizer says the source is computes what the code computes; constants of four digits are the limit.
    assert torch.allclose(evaluate(found[0].source, x), function(x), atol=5e-3)


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
