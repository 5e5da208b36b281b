"""Plain activations as targets: they preserve themselves only."""

from __future__ import annotations

import pytest
import torch
from activation_modules import C, sample

from actswap import activations
from actswap.activations import ordinary
from actswap.activations.base import StartContext
from actswap.activations.plain import PLAIN, evaluate
from actswap.errors import StartError
from actswap.sites import Source


@pytest.mark.parametrize("kind", ["max_sigmoid", "cos_minus", "min_sin", "atan2_minus", "max_tanh", "sinc_plus"])
def test_plain_targets_preserve_only_themselves(kind: str) -> None:
    spec = activations.get(kind)
    assert spec.promise(Source(kind)) == "exact" and spec.promise(Source("relu")) == "none"
    with pytest.raises(StartError, match="morph"):
        spec.start(Source("relu"), StartContext())
    x = torch.linspace(-4, 4, 101, dtype=torch.float64).reshape(1, -1)
    assert torch.equal(spec.build(None, 1)(x), evaluate(Source(kind), x))


def test_plain_names_of_the_same_function() -> None:
    assert activations.get("silu").promise(Source.of("swish", beta=1.0)) == "exact"
    assert activations.get("relu").promise(Source.of("prelu", slope=0.0)) == "exact"
    assert activations.get("leaky_relu").promise(Source.of("prelu", slope=0.2)) == "none"


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_targets_build(kind: str) -> None:
    if kind in ordinary.SPECS:
        spec = activations.get(kind)
        x = sample().abs() + 0.1
        assert torch.equal(spec.build(C, 1, **spec.options)(x), evaluate(Source(kind), x))
