"""Spellings met in public code, from scan to convert and back: kind, role, census, parity, both modes, revert."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

import actswap


class Net(nn.Module):
    """A layer, the formula, a layer; with parameters that the formula may use."""

    def __init__(self, formula: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.before, self.after, self.other = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.lstm, self.attention = nn.LSTM(5, 5, batch_first=True), nn.MultiheadAttention(5, 1, batch_first=True)
        self.columns = nn.Linear(4, 4)
        self.p, self.v = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor([0.5, 0.9, 1.3, 0.7, 1.0]))
        self.weight = nn.Parameter(torch.randn(5, 5))
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.formula(self, self.before(x)))


class Own(nn.Module):
    """A formula as a module of its own, which holds its parameters."""

    def __init__(self, formula: Callable[[Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.p, self.v = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor([0.5, 0.9, 1.3, 0.7, 1.0]))
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self, x)


def own(formula: Callable[[Own, Tensor], Tensor]) -> nn.Module:
    """A net whose activation is a module of its own."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 5), Own(formula), nn.Linear(5, 5)).eval()


Formula = Callable[[Net, Tensor], Tensor]
X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def normal_cdf(m: Net, x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf((x - 0.0) * 1.0 / math.sqrt(2)))


SITES: list[tuple[str, Formula]] = [
    ("silu", lambda m, x: x * torch.exp(F.logsigmoid(x))),
    ("gelu", normal_cdf),
    ("relu", lambda m, x: x * torch.heaviside(x, torch.zeros_like(x))),
    ("relu", lambda m, x: torch.fmax(x, torch.zeros_like(x))),
    ("prelu", lambda m, x: F.relu(x) + m.p * (x - torch.abs(x)) * 0.5),
    ("prelu", lambda m, x: torch.where(x > 0, x, m.v * x)),
    ("celu", lambda m, x: torch.clamp(x, min=0) + torch.clamp(2 * (torch.exp(x / 2) - 1), max=0)),
    ("celu", lambda m, x: torch.where(x > 0, x, 2 * torch.expm1(x / 2))),
    ("selu", lambda m, x: 1.0507 * F.elu(x, 1.67326)),
    ("relu2", lambda m, x: F.relu(x) * x),
    ("relu6", lambda m, x: torch.clamp(F.relu(x), max=6)),
    ("threshold", lambda m, x: torch.where(x > 0.5, x, -1)),
    ("hardsigmoid", lambda m, x: torch.clamp(0.2 * x + 0.5, 0, 1)),
    ("snake", lambda m, x: x + torch.sin(1.7 * x) ** 2 / 1.7),
    ("snake", lambda m, x: x + torch.sin(m.p * x) ** 2 / m.p),
    ("tanhexp", lambda m, x: x * torch.tanh(torch.exp(x))),
    ("phish", lambda m, x: x * torch.tanh(F.gelu(x))),
    ("lisht", lambda m, x: x * torch.tanh(x)),
    ("cos_minus", lambda m, x: torch.cos(x) - x),
    ("max_sigmoid", lambda m, x: torch.max(x, torch.sigmoid(x))),
    ("atan2_minus", lambda m, x: torch.atan(x) ** 2 - x),
    ("swish", lambda m, x: x * (x * m.v.view(1, -1).to(x.dtype)).sigmoid() / 1.7),
    # Squashing functions between layers are activations, whatever shifts, scales or rearranges their result.
    ("softplus", lambda m, x: F.softplus(x) - math.log(2)),
    ("sigmoid", lambda m, x: torch.sigmoid(x) - 0.5),
    ("sigmoid", lambda m, x: 2 * torch.sigmoid(x) - 1),
    ("tanh", lambda m, x: -torch.tanh(x)),
    ("tanh", lambda m, x: torch.tanh(x) ** 2),
    ("tanh", lambda m, x: m.lstm(torch.tanh(x)[None])[0][0]),
    ("tanh", lambda m, x: m.attention(torch.tanh(x)[None], torch.ones(1, 3, 5), torch.ones(1, 3, 5))[0][0]),
    ("tanh", lambda m, x: torch.tanh(x) @ m.weight),
    ("tanh", lambda m, x: torch.roll(torch.tanh(x), 1, -1)),
    ("tanh", lambda m, x: torch.tanh(x).amax(0, keepdim=True)),
    ("tanh", lambda m, x: torch.tanh(x).index_select(0, torch.tensor([0, 2]))),
    ("tanh", lambda m, x: m.columns(torch.tanh(x).mT).mT),
    # What no row of the table names is one activation.
    ("formula", lambda m, x: torch.sin(x) * torch.sigmoid(x)),
    ("formula", lambda m, x: x * torch.cos(x)),
    ("formula", lambda m, x: 0.5 * x * (x + 2).clamp(0, 2)),
    ("formula", lambda m, x: torch.sin(30 * x)),
    ("formula", lambda m, x: m.p * torch.sin(m.v * x) + 1),
    ("formula", lambda m, x: x * torch.tanh(m.v * x + m.p)),
    ("formula", lambda m, x: x.clamp(min=m.p)),
    ("formula", lambda m, x: x * torch.erf(F.softplus(x))),
]
PARAMETERS = [case for case in SITES if {"p", "v"} & set(case[1].__code__.co_names)]
ALONE = [
    case for case in SITES if 1.7 not in case[1].__code__.co_consts or case not in PARAMETERS
]  # no scale around it


@pytest.mark.parametrize(("kind", "formula"), ALONE)
def test_one_activation_that_morph_replaces_exactly(kind: str, formula: Formula) -> None:
    model = own(formula) if (kind, formula) in PARAMETERS else Net(formula).eval()
    sites = [s for s in actswap.scan(model, X) if s.source.kind != "tanh" or "lstm" not in s.name]
    assert [(s.source.kind, s.role) for s in sites] == [(kind, "activation")]
    result = actswap.convert(model, "acon_c", X, start="morph")
    assert len(result.report.replaced) == 1
    assert result.report.census is not None and result.report.census.complete
    assert result.report.parity is not None
    assert result.report.parity.rel <= 1e-5  # a few float32 roundings; four-digit constants of SELU are 2e-6 off
    for mode in (False, True):
        torch.testing.assert_close(result.model.train(mode)(X), model.train(mode)(X), rtol=1e-4, atol=1e-5)
    again = actswap.apply_plan(model, result.plan)
    torch.testing.assert_close(again.eval()(X), result.model.eval()(X), rtol=0, atol=0)
    assert torch.equal(actswap.revert(result.model).eval()(X), model.eval()(X))


NO_SITES: list[Formula] = [
    lambda m, x: x / 255 * 2 + 1,
    lambda m, x: (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5) * m.v + m.p,
    lambda m, x: (
        (x - x.mean(-1, keepdim=True)) / ((x - x.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    ),
    lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.v,
    lambda m, x: x / x.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-6),
    lambda m, x: x / (x.abs().sum(-1, keepdim=True) + 1e-6),
    lambda m, x: x.clamp(min=1e-6).pow(3).mean(0, keepdim=True).pow(1 / 3),
    lambda m, x: x + torch.sin(torch.arange(5.0) * 0.3),
    lambda m, x: x + torch.exp(0.5 * m.other(x)) * torch.full((4, 5), 0.1).cumsum(0),
    lambda m, x: torch.softmax((x @ x.mT) * 5**-0.5, -1) @ x,
    lambda m, x: (
        torch.exp(x - x.amax(-1, keepdim=True)) / torch.exp(x - x.amax(-1, keepdim=True)).sum(-1, keepdim=True)
    ),
    lambda m, x: x.masked_fill(torch.tensor([True, False, True, False, False]), 0.0),
    lambda m, x: x + m.other(x),
    lambda m, x: x * m.v * torch.exp(m.p) + m.p**2,
    lambda m, x: x.clamp(max=65504.0),
    lambda m, x: m.other(x) * x,
]


@pytest.mark.parametrize("formula", NO_SITES)
def test_arithmetic_that_is_no_activation(formula: Formula) -> None:
    assert [s.source.kind for s in actswap.scan(Net(formula).eval(), X)] == []


GATES: list[tuple[list[str], Formula]] = [
    (["sigmoid"], lambda m, x: x * torch.sigmoid(m.other(x))),
    (["sigmoid"], lambda m, x: x * torch.sigmoid(m.other(x.mean(0, keepdim=True)))),
    (["tanh", "sigmoid"], lambda m, x: torch.tanh(x) * torch.sigmoid(m.other(x))),
    (["sigmoid"], lambda m, x: (s := torch.sigmoid(m.other(x))) * x + (1 - s) * m.before(x)),
    (["tanh"], lambda m, x: torch.softmax(torch.tanh(x @ x.mT / 3) * 3, -1) @ x),
]


@pytest.mark.parametrize(("kinds", "formula"), GATES)
def test_gates_stay_gates(kinds: list[str], formula: Formula) -> None:
    sites = actswap.scan(Net(formula).eval(), X)
    assert [(s.source.kind, s.role) for s in sites] == [(kind, "gate") for kind in kinds]


def test_features_that_are_squeezed_and_excited_are_no_gate() -> None:
    """tanh(x) multiplies a gate made of it, and is what the gate's layer reads."""
    model = Net(lambda m, x: (y := torch.tanh(x)) * torch.sigmoid(m.other(y.mean(0, keepdim=True)))).eval()
    assert [(s.source.kind, s.role) for s in actswap.scan(model, X)] == [("tanh", "activation"), ("sigmoid", "gate")]


def test_known_activations_beside_each_other_stay_sites() -> None:
    def kinds(formula: Formula) -> list[str]:
        return [s.source.kind for s in actswap.scan(Net(formula).eval(), X)]

    assert kinds(lambda m, x: x + F.relu(x)) == ["relu"]
    assert kinds(lambda m, x: F.relu(x) + torch.sigmoid(x)) == ["relu", "sigmoid"]
    assert kinds(lambda m, x: F.gelu(x) * F.silu(x)) == ["gelu", "silu"]
    assert kinds(lambda m, x: torch.tanh(F.relu(x))) == ["relu", "tanh"]
    assert kinds(lambda m, x: F.relu(x) ** 3) == ["relu"]
    assert kinds(lambda m, x: F.relu(x) * m.p) == ["relu"]


class CdfGelu(nn.Module):
    """GELU with torch.distributions, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.after(x * Normal(0.0, 1.0).cdf(x))


def test_the_distribution_function_of_the_normal() -> None:
    model = CdfGelu().eval()
    (site,) = actswap.scan(model, X)
    assert (site.source.kind, site.role) == ("gelu", "activation")
    result = actswap.convert(model, "acon_c", X, start="morph")
    assert result.report.ok and len(result.report.replaced) == 1


def test_trained_constants_of_a_source_train_on() -> None:
    """A slope per channel becomes a parameter of the stand-in, and its gradient is that of the original."""
    model = own(lambda m, x: torch.where(x > 0, x, m.v * x))
    (site,) = actswap.scan(model, X)
    assert site.source.trained == (("slope", "1.v"),) and site.channels == 5
    converted = actswap.convert(model, "acon_c", X, start="morph").model
    converted(X).square().sum().backward()
    model(X).square().sum().backward()
    (slope,) = (p for n, p in converted.named_parameters() if n.endswith("source.slope"))
    torch.testing.assert_close(slope.grad, model[1].v.grad)


@pytest.mark.parametrize(("kind", "formula"), PARAMETERS)
def test_parameters_of_the_owner_are_seen_and_never_lost(kind: str, formula: Formula) -> None:
    """The site is named; it is left, with the parameter as the reason, or replaced without it."""
    model = Net(formula).eval()
    (site,) = actswap.scan(model, X)
    assert (site.source.kind, site.role) == (kind, "activation")
    if site.how == "left":
        assert {name for _, name in site.source.trained} <= {"p", "v"} and site.source.trained[0][1] in site.reason
    else:
        assert site.source.trained == ()
