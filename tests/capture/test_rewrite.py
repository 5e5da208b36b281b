"""Where torch.fx cannot follow a forward, the call expression in its source is exchanged."""

from __future__ import annotations

import functools
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
from actswap.errors import CaptureError
from actswap.plan import Plan


class Branching(nn.Module):
    """One module called up to three times, depending on the size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.more = nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.conv(x))
        if hidden.shape[-1] > 2:
            hidden = self.act(self.more(hidden))
        return self.act(hidden + 1)


class Looping(nn.Module):
    """A functional call in a loop, in a method of its own, behind a branch; `super()` needs its closure cell."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def extra_repr(self) -> str:
        return super().extra_repr()

    def body(self, x: Tensor) -> Tensor:
        assert super().extra_repr() == ""
        for layer in self.layers:
            x = F.relu(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 1000:
            return x
        return self.body(x)


class Positions(nn.Module):
    """Calls whose first argument is not what they act on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return x
        y = self.first(x).clamp(0)
        y = self.last(y)
        y.clamp_(0)
        return self.last(y)


class Spelled(nn.Module):
    """Formulas of one expression each, some nested, behind a branch that torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.beta = 1.7

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return x
        y = torch.square(torch.relu(self.linear(x)))
        for _ in range(2):
            y = 2 * (y * torch.sigmoid(self.beta * y)) + 1
        y = self.last(y)
        y = torch.where(y > 0, y, 0.1 * y) / (1 + 0 * y)
        return F.silu(self.linear(y) * 1.0) + (0.5 * y) * (1 + torch.erf(y / 2**0.5))


class InTwoStatements(nn.Module):
    """A formula that no single expression spells, beside a call that one does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return x
        y = self.linear(F.gelu(x))
        gate = torch.sigmoid(y)
        return self.linear(y * gate)


class ReadElsewhere(InTwoStatements):
    """As InTwoStatements, but the first statement is also for something else."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return x
        y = self.linear(F.gelu(x))
        gate = torch.sigmoid(y)
        return self.linear(y * gate) + gate.mean()


class BareInPlace(nn.Module):
    """The result of the in-place call is not used, its input is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear(x)
        if hidden.shape[0] > 1:
            hidden.relu_()
        return hidden * 2


@pytest.mark.parametrize(
    ("model", "x", "sites"),
    [
        (Branching(), torch.randn(2, 3, 4, 4), 3),
        (Looping(), torch.randn(2, 4), 3),
        (BareInPlace(), torch.randn(2, 4), 1),
        (Positions(), torch.randn(2, 4), 2),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 3, 8), 1),
    ],
    ids=["branch", "loop", "bare in-place", "positions", "TransformerEncoderLayer"],
)
def test_all_calls_are_replaced_and_reverted(model: nn.Module, x: Tensor, sites: int) -> None:
    model.eval()
    result = actswap.convert(model, "dy_relu_b", x)
    assert len(result.report.replaced) == sites
    assert result.report.census is not None and result.report.census.complete
    with torch.no_grad():
        assert torch.equal(result.model(x), model(x))
        assert torch.equal(actswap.revert(result.model)(x), model(x))
        plan = Plan.from_dict(json.loads(json.dumps(result.plan.to_dict())))
        assert torch.equal(actswap.apply_plan(model, plan)(x), model(x))
    result.model.train()
    result.model(x).square().mean().backward()
    assert all(p.grad is not None for p in result.model.parameters())


def test_control_flow_stays_dynamic() -> None:
    model = Branching().eval()
    converted = actswap.convert(model, "dy_relu_b", torch.randn(2, 3, 4, 4)).model
    small = torch.randn(5, 3, 2, 2)
    with torch.no_grad():
        assert torch.equal(converted(small), model(small))


def test_fast_path_of_the_encoder_is_off() -> None:
    """In eval mode without gradients torch would compute relu in a fused kernel, past the new module."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    converted = actswap.convert(layer, "acon_c", x).model
    with torch.no_grad():
        before = converted(x)
        converted.get_parameter("relu.p1").mul_(3.0)
        assert not torch.allclose(before, converted(x))


def logged(method):  # type: ignore[no-untyped-def]
    """A decorator that branches on a value, so that torch.fx cannot follow."""

    @functools.wraps(method)
    def wrapper(self, x):  # type: ignore[no-untyped-def]
        return method(self, x) if float(x.sum()) < 1e9 else x

    return wrapper


def hidden(method):  # type: ignore[no-untyped-def]
    """A decorator that keeps the function in a table, not in its closure."""
    table = {"method": method}

    @functools.wraps(method)
    def wrapper(self, x):  # type: ignore[no-untyped-def]
        return table["method"](self, x) if float(x.sum()) < 1e9 else x

    return wrapper


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @logged
    @logged
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x))


class Hidden(Decorated):
    @hidden
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x))


def test_decorators_stay_around_a_rewritten_method() -> None:
    model, x = Decorated().eval(), torch.randn(2, 4)
    converted = actswap.convert(model, "dy_relu_b", x).model
    with torch.no_grad():
        assert torch.equal(converted(x), model(x))
        assert torch.equal(converted(x + 1e9), x + 1e9), "the decorator still decides"


def test_a_call_that_cannot_be_reached_is_left_with_its_reason() -> None:
    (site,) = actswap.scan(Hidden(), torch.randn(2, 4))
    assert site.how == "left"
    assert "nor can its forward be traced" in site.reason and "decorator" in site.reason


def test_formulas_are_exchanged_in_the_source() -> None:
    model, x = Spelled().eval(), torch.randn(3, 4)
    result = actswap.convert(model, "acon_c", x, start="morph")
    assert len(result.report.replaced) == 6 and result.plan.islands[0].rewrites
    plan = Plan.from_dict(json.loads(json.dumps(result.plan.to_dict())))
    with torch.no_grad():
        for converted in (result.model, actswap.apply_plan(model, plan)):
            torch.testing.assert_close(converted(2 * x), model(2 * x))  # the plain functions, up to their rounding
            assert torch.equal(converted(x + 1e9), x + 1e9), "the branch is still there"
        assert torch.equal(actswap.revert(result.model)(x), model(x))


@pytest.mark.parametrize("model", [Looping(), Spelled()], ids=["calls", "formulas"])
def test_some_rounds_of_a_loop(model: nn.Module) -> None:
    x = torch.randn(3, 4)
    names = [s.name for s in actswap.scan(model.eval(), x)]
    for chosen in (names[1], names[2]):
        result = actswap.convert(model, "acon_c", x, start="morph", only=chosen)
        assert [r.site.name for r in result.report.replaced] == [chosen]
        assert result.report.census is not None and result.report.census.complete
        with torch.no_grad():
            torch.testing.assert_close(result.model(2 * x), model(2 * x))


def test_a_formula_of_two_statements_goes_as_a_whole() -> None:
    model, x = InTwoStatements().eval(), torch.randn(2, 4)
    result = actswap.convert(model, "acon_c", x, start="morph")
    assert [r.site.source.kind for r in result.report.replaced] == ["gelu", "silu"] and result.report.census.complete
    plan = Plan.from_dict(json.loads(json.dumps(result.plan.to_dict())))
    with torch.no_grad():
        for converted in (result.model, actswap.apply_plan(model, plan)):
            torch.testing.assert_close(converted(2 * x), model(2 * x))


def test_a_formula_whose_part_is_read_elsewhere_is_left_with_its_reason_and_the_rest_is_not() -> None:
    model, x = ReadElsewhere().eval(), torch.randn(2, 4)
    sites = {s.source.kind: s for s in actswap.scan(model, x)}
    assert sites["silu"].how == "left" and "not one expression" in sites["silu"].reason
    report = actswap.convert(model, "acon_c", x, start="morph").report
    assert [r.site.source.kind for r in report.replaced] == ["gelu"] and report.census.complete


def test_a_plan_that_names_no_part_of_its_expression_is_refused() -> None:
    model, x = Spelled().eval(), torch.randn(2, 4)
    data = actswap.convert(model, "acon_c", x, start="morph").plan.to_dict()
    data["islands"][0]["rewrites"][0]["argument"] = [99, 99, 0, 1]
    with pytest.raises(CaptureError, match="no input at the observed place"):
        actswap.apply_plan(model, Plan.from_dict(data))
