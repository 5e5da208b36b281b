"""An expression is a target like any other: exact start if it is the source, morph if not, gradients, revert."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import actswap
from actswap.activations.expression_unit import ExpressionUnit, expression_spec
from actswap.errors import UsageError
from actswap.sites import Source


@pytest.mark.parametrize("text", ["x*sigmoid(beta*x)", "max(x, tanh(beta*x))", "beta*x+(1-beta)*sin(beta2*x)"])
@pytest.mark.parametrize("channels", [None, 3])
def test_gradients(text: str, channels: int | None) -> None:
    unit = ExpressionUnit(channels, expression=text, beta=0.7).double()
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    names, values = zip(*unit.named_parameters(), strict=True)

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(unit, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("dim", [1, -1])
def test_numbers_follow_the_channel_axis(dim: int) -> None:
    unit = ExpressionUnit(3, dim, "beta*x")
    unit.load_start({"beta": (1.0, 2.0, 3.0)})
    y = unit(torch.ones(2, 3, 3))
    assert torch.equal(y.movedim(dim, -1)[0, 0], torch.tensor([1.0, 2.0, 3.0]))


def test_half_types_compute_in_float32() -> None:
    unit = ExpressionUnit(expression="x*sigmoid(x)")
    x = torch.linspace(-8, 8, 99).bfloat16()
    assert torch.equal(unit(x), nn.functional.silu(x.float()).bfloat16())


@pytest.mark.parametrize(
    ("text", "source", "beta"),
    [
        ("x*sigmoid(beta*x)", Source("silu"), 1.0),
        ("x*sigmoid(beta*x)", Source("quick_gelu"), 1.702),
        ("x*sigmoid(beta*x)", Source.of("swish", beta=0.3), 0.3),
        ("max(x, beta*x)", Source.of("leaky_relu", slope=0.1), 0.1),
        ("relu(x)", Source("relu"), None),
        ("tanh(x)", Source("tanh"), None),
    ],
)
def test_an_expression_that_can_be_the_source_starts_exactly(text: str, source: Source, beta: float | None) -> None:
    spec = expression_spec(text)
    assert spec.promise(source) == "exact"
    start = spec.start(source, actswap.activations.base.StartContext())
    assert [round(v, 9) for v in start.params.values()] == ([] if beta is None else [beta])


def test_constants_by_channel_give_numbers_by_channel() -> None:
    source = Source.of("swish", beta=(0.5, 1.0, 1.7))
    start = expression_spec("x*sigmoid(beta*x)").start(source, actswap.activations.base.StartContext())
    assert start.kind == "exact" and start.params["beta"] == pytest.approx((0.5, 1.0, 1.7), abs=1e-9)
    assert expression_spec("x*sigmoid(x)").promise(source) == "none", "only one channel is that function"


class Written(nn.Module):
    """A formula of the user's own between two layers."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(4, 4), function, nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("x*erf(x)", lambda x: x * torch.erf(x)),
        ("exp(-x**2)", lambda x: torch.exp(-(x**2))),
        ("max(x, tanh(x))", lambda x: torch.max(x, torch.tanh(x))),
        ("x*sin(beta*x)", lambda x: x * torch.sin(0.7 * x)),
        ("atan(x)**2-x", lambda x: torch.atan(x).square() - x),
    ],
)
def test_a_formula_that_is_the_expression_starts_exactly(text: str, function) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    done = actswap.convert(Written(function).eval(), text, x)
    assert [r.start for r in done.report.replaced] == ["exact"]
    assert done.report.parity is not None and done.report.parity.rel < 1e-5


def test_a_registered_name_is_a_target_and_bundles_hold_the_expression() -> None:
    assert actswap.register("wobble", "x + 0.1*sin(beta*x)").name == "x+0.1*sin(beta*x)"
    actswap.register("wobble", "x+0.1*sin(beta*x)")  # the same again
    done = actswap.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), "wobble", torch.ones(2, 4))
    assert done.plan.choices[0].target == "x+0.1*sin(beta*x)"
    for name, text, words in (
        ("wobble", "x", "is x\\+0.1"),
        ("relu", "x*x", "an activation has it"),
        ("a b", "x*x", "letters, digits"),
        ("x", "x*x", "letters, digits"),
        ("fine", "x*foo(x)", "column 3"),
    ):
        with pytest.raises(UsageError, match=words):
            actswap.register(name, text)


def test_flops_are_counted_at_every_site() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)).eval()
    x = torch.ones(3, 4)
    model = actswap.convert(net, "x*sigmoid(beta*x)", x).model
    plain = actswap.cost.measure(nn.Sequential(net[0], nn.Identity(), net[2]), (x,))
    assert actswap.cost.measure(model, (x,)).flops - plain.flops == 3 * 12, "two products and a sigmoid"


@pytest.mark.parametrize("text", ["x*sigmoid(beta*x)", "x*tanh(beta*x)", "x*x/(beta+abs(x))", "sin(x)"])
def test_a_limit_is_not_taken_for_an_exact_start(text: str) -> None:
    assert expression_spec(text).promise(Source("relu")) == "none"


def test_conversion_and_revert() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9, 9)
    done = actswap.convert(net, " x * sigmoid(beta*x)", x)
    assert [r.start for r in done.report.replaced] == ["exact", "morph"]
    assert done.report.census is not None and done.report.census.complete
    assert done.model[1].beta.shape == (8,) and done.plan.choices[0].target == "x*sigmoid(beta*x)"
    again = actswap.apply_plan(net, done.plan)
    with torch.no_grad():
        assert torch.equal(again(x), done.model(x)) and torch.equal(actswap.revert(done.model)(x), net(x))


def test_a_bundle_and_no_weight_decay(tmp_path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 2)).eval(), torch.randn(3, 4)
    model = actswap.convert(net, "x*sigmoid(beta*x)", x).model
    actswap.save(model, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(actswap.load(tmp_path / "out", net)(x), model(x))
    groups = actswap.param_groups(model, weight_decay=0.1)
    (of_beta,) = [g["weight_decay"] for g in groups if any(p is model[1].beta for p in g["params"])]
    assert of_beta == 0


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="has no option gamma"):
        actswap.convert(nn.Sequential(nn.ReLU()), "x*tanh(x)", torch.ones(1, 2), options={"gamma": 1})
