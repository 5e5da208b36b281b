"""Heads that run only in training: found, replaced or listed, and counted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Heads(nn.Module):
    """One head behind `self.training` with modules, one with a function, one through a module of the body."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act, self.out = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        self.aux = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        h = self.act(self.a(x))
        if self.training:
            return self.out(h), self.aux(h), F.silu(self.out(h)), self.act(self.out(h))
        return self.out(h)


def test_they_are_sites_with_their_reason() -> None:
    sites = {s.name: s for s in actswap.scan(Heads(), X)}
    assert list(sites) == ["act", "aux.1", "silu", "act@1"]
    assert sites["act"].reason == "" and sites["aux.1"].how == "swap"
    assert all(sites[n].reason.startswith("runs only in training") for n in ("aux.1", "silu", "act@1"))
    assert sites["silu"].how == sites["act@1"].how == "left"


def test_a_module_is_replaced_and_the_rest_is_listed_and_counted() -> None:
    result = actswap.convert(Heads().eval(), "acon_c", X, start="morph")
    report = result.report
    assert [r.site.name for r in report.replaced] == ["act", "aux.1"]
    assert [e.site.name for e in report.left] == ["silu", "act@1"]
    assert report.census.complete and report.census_training.complete
    assert report.census_training.replaced == 2, "act in the body, where its width is known, and aux.1"
    assert isinstance(result.model.act, nn.ReLU), "the head still uses it"
    assert report.proof["census in training"].passed


def test_its_start_is_fitted_to_what_it_sees_in_training() -> None:
    model = Heads().eval()
    with torch.no_grad():
        model.aux[0].weight.mul_(100)  # wide inputs: a sharpness for a deviation of 1 would be far too sharp
    model.aux[1] = nn.ReLU()
    rows = {r.site.name: r for r in actswap.convert(model, "acon_c", X).report.replaced}
    assert rows["aux.1"].start == "limit" and rows["aux.1"].beta < rows["act"].beta


def test_a_model_that_cannot_train_says_that_nothing_was_counted() -> None:
    class OnlyEval(Heads):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("needs targets")
            return self.out(self.act(self.a(x)))

    report = actswap.convert(OnlyEval().eval(), "acon_c", X).report
    assert report.ok and report.census_training is None
    check = report.proof["census in training"]
    assert check.passed is None and "needs targets" in check.said
    assert "not proved in train mode" in report.proof["gradients"].said
