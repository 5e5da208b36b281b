"""Morphs, their schedules, and the way back to plain activations."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from activation_modules import C, sample
from torch import nn

from actswap import activations
from actswap import nn as AN
from actswap.activations.base import Activation, StartContext
from actswap.activations.plain import PLAIN, SourceModule, evaluate
from actswap.activations.simplify import closest_plain, simplify
from actswap.errors import UsageError
from actswap.fit.histogram import Histogram
from actswap.sites import Source


@pytest.mark.parametrize("target", ["acon_c", "pau", "dy_relu_b", "sigmoid"])
@pytest.mark.parametrize("kind", PLAIN)
def test_morph_is_the_source_at_0_and_the_target_at_1(kind: str, target: str) -> None:
    source = Source(kind)
    morph = AN.Morph(SourceModule(source), activations.get(target).build(C, 1))
    x = sample()
    assert torch.equal(morph(x), evaluate(source, x))
    morph.t = 1.0
    assert torch.equal(morph(x), morph.target(x))
    morph.t = 0.25
    torch.testing.assert_close(morph(x), 0.75 * evaluate(source, x) + 0.25 * morph.target(x))


def test_morph_in_half_precision_and_saved() -> None:
    morph = AN.Morph(SourceModule(Source("gelu")), AN.AconC(C)).bfloat16()
    x = sample().bfloat16()
    assert torch.equal(morph(x), F.gelu(x))
    morph.t = 0.5
    other = AN.Morph(SourceModule(Source("gelu")), AN.AconC(C)).bfloat16()
    other.load_state_dict(morph.state_dict())
    assert other.t == 0.5 and torch.equal(other(x), morph(x))


def test_schedules_anneal_and_finalize() -> None:
    model = nn.Sequential(
        OrderedDict(
            a=AN.Morph(SourceModule(Source("gelu")), AN.AconC(C)),
            b=nn.Sequential(AN.Morph(SourceModule(Source("tanh")), AN.DyReLUC(C))),
        )
    )
    rise, cool = AN.morph_schedule(10), AN.temperature_schedule(10)
    assert [rise(s) for s in (-1, 0, 5, 10, 99)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert [cool(s) for s in (0, 10, 50)] == [10.0, 1.0, 1.0]
    assert AN.anneal(model, "t", rise, 5) == 2 and AN.anneal(model, "tau", cool, 5) == 1
    assert model.a.t == 0.5 and model.b[0].target.tau == 5.5
    with pytest.raises(UsageError, match=r"t = 0\.5"):
        AN.finalize(model)
    AN.anneal(model, "t", rise, 10)
    x = sample()
    before = model(x)
    assert AN.finalize(model) == 2 and isinstance(model.a, AN.AconC) and isinstance(model.b[0], AN.DyReLUC)
    assert torch.equal(model(x), before)


def test_temperature_is_saved() -> None:
    first, second = AN.DyReLUC(C), AN.DyReLUC(C)
    first.tau = 2.5
    second.load_state_dict(first.state_dict())
    assert second.tau == 2.5


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
    found = closest_plain(module, x, 2e-3)
    assert found is not None and found.kind == source.kind
    for n, value in source.params:
        assert torch.tensor(found.get(n)).tolist() == pytest.approx(torch.tensor(value).tolist(), abs=1e-3)


def test_simplify_leaves_what_is_not_plain() -> None:
    assert closest_plain(AN.AconC(C, p1=1.1, p2=-0.4, beta=0.7), 2 * sample(), 1e-3) is None


def test_simplify_a_model() -> None:
    plain, odd = AN.AconC(4), AN.AconC(5, p1=1.3, p2=0.4, beta=2.0)
    model = nn.Sequential(nn.Linear(3, 4), plain, nn.Linear(4, 5), odd)
    x = sample(64, 3)
    before = model(x)
    assert simplify(model, lambda: model(x), 1e-3) == {"1": Source("silu")}
    assert isinstance(model[1], SourceModule) and model[3] is odd
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_bounded_delegates_its_start() -> None:
    bounded = AN.Bounded(AN.AconC(C), 0.0, 6.0)
    assert isinstance(bounded.inner, Activation)
    bounded.load_start(activations.get("acon_c").start(Source("relu"), StartContext(beta=1e5)).params)
    x = 5 * sample()
    torch.testing.assert_close(bounded(x), F.relu6(x), rtol=0, atol=3e-6)
