"""Activations of other projects that are modules: named as what they are, and replaced as one."""

from __future__ import annotations

import other_projects
import pytest
import torch
from torch import nn

import actswap

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
CASES = [
    ("acon_c", lambda: other_projects.Acon(8)),
    ("acon_c", lambda: other_projects.ShortAcon(8)),
    ("meta_acon", lambda: other_projects.MetaAcon(8)),
    ("dy_relu_a", lambda: other_projects.DyRelu(8, "A")),
    ("dy_relu_b", lambda: other_projects.DyRelu(8, "B")),
    ("pau", other_projects.Pade),
    ("pau", other_projects.PadeB),
]


def net(activation: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), activation, nn.Conv2d(8, 4, 1)).eval()


@pytest.mark.parametrize(("kind", "build"), CASES)
def test_it_is_one_source_by_its_name(kind: str, build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = net(build())
    (site,) = actswap.scan(model, X)
    assert (site.name, site.source.kind, site.role, site.how) == ("1", kind, "activation", "swap")
    result = actswap.convert(model, "hp1" if kind == "pau" else "dy_relu_c", X, start="morph")
    assert result.report.census is not None and result.report.census.complete
    assert result.report.parity is not None and result.report.parity.rel <= 1e-6  # roundings of one formula
    again = actswap.apply_plan(model, result.plan)
    assert torch.equal(again(X), result.model(X))
    back = actswap.revert(result.model)
    assert type(back[1]) is type(model[1]) and torch.equal(back(X), model(X))


def test_acon_of_another_project_starts_meta_acon_exactly() -> None:
    torch.manual_seed(0)
    model = net(other_projects.Acon(8))
    report = actswap.convert(model, "meta_acon", X).report
    assert [r.start for r in report.replaced] == ["exact"]
    assert report.parity is not None and report.parity.rel <= 1e-6


def test_twice_called_modules_with_layers_are_left_with_their_reason() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), other_projects.DyRelu(8, "B")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.act(self.b(self.act(self.a(x)))))

    sites = actswap.scan(Twice().eval(), X)
    assert [(s.source.kind, s.how) for s in sites] == [("dy_relu_b", "left"), ("dy_relu_b", "left")]
    assert all("layers of its own" in s.reason for s in sites)
