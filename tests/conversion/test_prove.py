"""The judgement of a conversion: a fault is traced to its sites, and what fails is raised in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.checks.check import Check, Proof
from actswap.checks.gradients import Pass
from actswap.checks.proof import Subject, train_once
from actswap.conversion.outcome import Report
from actswap.conversion.prove import comparable, inside, judge
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
