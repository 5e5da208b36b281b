"""Morphs: the source at t = 0, the target at t = 1, and t in the state dict."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from activation_modules import C, sample
from torch import nn

from actswap import activations
from actswap import nn as AN
from actswap.activations.morph import finalize_like, settle
from actswap.activations.plain import PLAIN, SourceModule, evaluate
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


def test_morphs_at_an_end_become_what_they_compute_there() -> None:
    ends = [AN.Morph(SourceModule(Source("gelu")), AN.AconC(C), t) for t in (0.0, 0.5, 1.0)]
    model = nn.Sequential(*ends)
    assert settle(model) == 2
    assert [model[0], model[1], model[2]] == [ends[0].source, ends[1], ends[2].target]


def test_weights_of_a_finalized_model_say_which_morphs_are_gone() -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(*(AN.Morph(SourceModule(Source("gelu")), AN.AconC(C)) for _ in range(2)))

    saved, read = build(), build()
    saved[0].t = 1.0
    saved[0] = saved[0].target
    assert finalize_like(read, saved.state_dict()) == 1
    read.load_state_dict(saved.state_dict())
    assert torch.equal(read(sample()), saved(sample()))
