"""The way back: units that became a plain function are replaced by it."""

from __future__ import annotations

import pytest
import torch
from activation_modules import C, sample
from torch import nn

from actswap import activations
from actswap import nn as AN
from actswap.activations.base import StartContext
from actswap.activations.plain import SourceModule
from actswap.activations.simplify import closest_plain, simplify
from actswap.fit.histogram import Histogram
from actswap.sites import Source


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("acon_c", Source("silu")),
        ("acon_c", Source.of("leaky_relu", slope=0.2)),
        ("acon_c", Source.of("prelu", slope=(0.1, 0.2, 0.3, 1.4, -0.5, 0.0))),
        ("meta_acon", Source("relu")),
        ("dy_relu_b", Source("relu")),
        ("pau", Source("tanh")),
        ("pau", Source("sigmoid")),
    ],
    ids=str,
)
def test_simplify_finds_what_a_unit_started_from(name: str, source: Source) -> None:
    spec = activations.get(name)
    module = spec.build(C, 1)
    context = StartContext(beta=1e5, histogram=Histogram.uniform(-8, 8))
    module.load_start(spec.start(source, context).params)
    x = 2 * sample(4, C, 8, 8)
    found = closest_plain(x, module(x).detach(), 2e-3)
    assert found is not None and found.kind == source.kind
    for n, value in source.params:
        assert torch.tensor(found.get(n)).tolist() == pytest.approx(torch.tensor(value).tolist(), abs=1e-3)


def test_simplify_leaves_what_is_not_plain() -> None:
    x, unit = 2 * sample(), AN.AconC(C, p1=1.1, p2=-0.4, beta=0.7)
    assert closest_plain(x, unit(x).detach(), 1e-3) is None


def test_simplify_a_model() -> None:
    plain, odd = AN.AconC(4), AN.AconC(5, p1=1.3, p2=0.4, beta=2.0)
    model = nn.Sequential(nn.Linear(3, 4), plain, nn.Linear(4, 5), odd)
    x = sample(64, 3)
    before = model(x)
    assert simplify(model, lambda: model(x), 1e-3) == {"1": Source("silu")}
    assert isinstance(model[1], SourceModule) and model[3] is odd
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
