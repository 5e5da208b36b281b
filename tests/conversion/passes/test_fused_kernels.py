"""Fused encoder kernels are turned off where they would skip a new activation, and on again afterwards."""

from __future__ import annotations

import torch
from torch import nn

import actswap
from actswap.conversion.passes.fused_kernels import fused


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="relu", batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=True), nn.ReLU()).eval()


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def test_only_kernels_that_would_skip_a_chosen_call_are_listed() -> None:
    model = encoder()
    for only, expected in ((None, 3), (["0.layers.1.*"], 2), (["1"], 0)):
        plan = actswap.convert(model, "silu", X, only=only, start="none", verify=False).plan
        listed = fused(model, plan)
        assert len(listed) == expected
        assert {name for _, name, _ in listed} <= {"activation_relu_or_gelu", "use_nested_tensor"}


def test_the_new_activation_runs_without_gradients_and_revert_brings_the_kernel_back() -> None:
    model = encoder()
    new = actswap.convert(model, "silu", X, start="none").model
    with torch.no_grad():
        inference = new(X)
    # The kernel is the one place in which inference would differ from training by more than rounding.
    torch.testing.assert_close(inference, new(X))
    assert not torch.allclose(inference, model(X), atol=1e-2)
    layer = new[0].layers[0]
    layer.activation_relu_or_gelu = 1
    assert layer.activation_relu_or_gelu == 0, "it keeps its value whatever is assigned"
    back = actswap.revert(new)
    assert back[0].layers[0].activation_relu_or_gelu == 1 and torch.equal(back(X), model(X))
