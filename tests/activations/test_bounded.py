"""Capped sources keep their cap."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from activation_modules import ACONS, DYNAMIC, PADE, C, begun, error, grid, sample

from actswap import activations
from actswap import nn as AN
from actswap.activations.base import Activation, StartContext
from actswap.activations.bounded import Bounded, split
from actswap.activations.plain import PLAIN, evaluate
from actswap.errors import StartError
from actswap.sites import Source


@pytest.mark.parametrize("source", [Source("relu6"), Source.of("hardtanh", low=-1.0, high=2.0)], ids=str)
@pytest.mark.parametrize("name", [*ACONS, *DYNAMIC, *PADE])
def test_capped_sources_keep_their_cap(name: str, source: Source) -> None:
    core, shift, cap = split(source)
    with pytest.raises(StartError, match="Bounded"):
        begun(name, source)
    module, start = begun(name, core, 1e4)
    bounded = Bounded(module, shift, cap)
    x = grid(9.0)
    assert bounded(x).max() <= cap
    limit = start.bound if start.bound is not None else start.error
    assert error(bounded, source, x).max() <= limit * (1 + 2e-6) + 1e-12
    assert activations.get(name).promise(source) == activations.get(name).promise(core)


def test_split_reassembles_every_plain_activation() -> None:
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64).reshape(1, -1)
    for kind in PLAIN:
        core, shift, cap = split(Source(kind))
        rebuilt = torch.clamp(evaluate(core, x - shift) + shift, max=cap)
        torch.testing.assert_close(rebuilt, evaluate(Source(kind), x))


def test_bounded_delegates_its_start() -> None:
    bounded = AN.Bounded(AN.AconC(C), 0.0, 6.0)
    assert isinstance(bounded.inner, Activation)
    bounded.load_start(activations.get("acon_c").start(Source("relu"), StartContext(beta=1e5)).params)
    x = 5 * sample()
    # 0.2784645 / beta = 2.8e-6, and one rounding of numbers up to 6 is 2.4e-7 more.
    torch.testing.assert_close(bounded(x), F.relu6(x), rtol=0, atol=0.2784645 / 1e5 + 2.4e-7)
