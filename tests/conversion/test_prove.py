"""The judgement of a conversion: a fault is traced to its sites, and what fails is raised in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.checks.check import Check, Proof
from actswap.checks.gradients import WAYS, Pass
from actswap.checks.proof import Subject, train_once
from actswap.conversion.outcome import Report
from actswap.conversion.prove import _out_of_range, comparable, inside, judge
from actswap.conversion.survey import scan
from actswap.errors import VerificationError

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), *layers, nn.Linear(4, 3))


@pytest.fixture(scope="module")
def done() -> actswap.conversion.outcome.Conversion:
    return actswap.convert(net(nn.SiLU()), "swish", X, verify="outputs")


def refused(report: Report, model: nn.Module) -> str:
    with pytest.raises(VerificationError) as caught:
        judge(report, net(nn.SiLU()), model, Subject((X,), {}, ()))
    return str(caught.value)


def test_a_report_that_is_ok_passes(done) -> None:
    judge(done.report, None, done.model, Subject((X,), {}, ()))


def test_calls_that_are_not_made_come_first(done) -> None:
    assert done.report.census is not None
    text = refused(replace(done.report, census=replace(done.report.census, replaced=5, complete=False)), done.model)
    assert "does not make the planned activation calls" in text and "5 replaced" in text


def test_a_proof_that_fails_names_what_differs(done) -> None:
    failed = Check("gradients", False, "0.weight lost a gradient", names=("0.weight",))
    text = refused(replace(done.report, proof=Proof((failed,))), done.model)
    assert "another function than the original" in text and "0.weight lost a gradient" in text


def test_outputs_off_the_tolerance_say_where_they_part(done) -> None:
    assert done.report.parity is not None
    other = net(nn.ReLU())
    text = refused(replace(done.report, parity=replace(done.report.parity, rel=0.5)), other)
    assert "off by 5.00e-01, more than the tolerance" in text and "1" in text and "--start morph" in text


def test_names_inside_what_is_replaced() -> None:
    plan = actswap.convert(net(nn.SiLU()), "swish", X, verify=False).plan
    replaced = inside(plan)
    assert replaced("1") and replaced("1.anything") and not replaced("0") and not replaced("10")


def test_rrelu_is_compared_in_eval_mode_since_it_draws() -> None:
    for layer, training in ((nn.RReLU(), False), (nn.ReLU(), True)):
        model = net(layer)
        trained = train_once(model, (X,), {})
        found = comparable(model, scan(model, X), Subject((X,), {}, ()), trained)
        assert isinstance(found, Pass) and found.way.training is training


class Sharing(nn.Module):
    """Two activations; the second also looks at whether the first was replaced, and changes the result if so."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.good, self.bad = nn.ReLU(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers[1](self.good(self.layers[0](x)))
        z = self.bad(y)
        return self.layers[2](z if isinstance(self.bad, nn.Tanh) else z * 1.01)


def test_a_site_at_fault_is_left_and_the_others_are_replaced() -> None:
    torch.manual_seed(0)
    report = actswap.convert(Sharing(), "acon_c", X, tolerance=1e-2, start="morph").report
    assert [r.site.name for r in report.replaced] == ["good"] and report.ok
    (left,) = [entry for entry in report.left if entry.site.name == "bad"]
    assert left.reason


class Degenerate(nn.Module):
    """Statistics that were never updated: what is near zero in eval mode is of order one in train mode."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.act, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.SiLU(), nn.Linear(4, 3)
        self.norm.running_var.fill_(variance)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.norm(self.first(x))))


@pytest.mark.parametrize("target", ["pau", "opau"])
def test_a_fit_on_inputs_that_hardly_vary_holds_in_train_mode_too(target: str) -> None:
    """Fitted on inputs of 1e-9, a rational has coefficients that float32 does not hold."""
    result = actswap.convert(Degenerate(1e18), target, X)
    assert result.report.proof is not None and all(check.passed for check in result.report.proof.checks)
    assert bool(result.model.train()(X).isfinite().all())


def test_a_fitted_range_that_train_mode_leaves_is_named() -> None:
    for variance, named in ((1.0, False), (1e4, True)):
        model = Degenerate(variance)
        result = actswap.convert(model, "pau", X, start="fit", tolerance=1.0, verify="outputs")
        said = _out_of_range(result.model, result.plan, Subject((X,), {}, ()), WAYS[0])
        assert ("on this batch act gets numbers from" in said) is named, said
