"""DY-ReLU C: its temperature, its gain, and Microsoft's spatial branch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from activation_modules import C, randomised, sample
from torch import nn

from actswap import activations
from actswap import nn as AN


def test_dy_relu_c_temperature() -> None:
    """High temperature spreads the attention evenly; low lets few positions through, and the cap is 1."""
    module = AN.DyReLUC(2, gain=1.0).double()
    module.load_start({"ws": 1.0})
    x = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64) + 0.1
    module.tau = 1e6
    torch.testing.assert_close(module(x), x / 3, rtol=1e-5, atol=0)
    module.tau = 1e-4
    factor = module(x) / x
    assert factor.max().item() == pytest.approx(1.0) and (factor > 1e-6).sum() == 2  # one position, two channels


def test_dy_relu_c_without_compensation_is_a_third() -> None:
    module = activations.get("dy_relu_c").build(4, 1, gain=1.0).double()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), x.relu() / 3)


def test_dy_relu_c_checkpoint_of_microsoft() -> None:
    """The spatial branch, a 1x1 convolution and a BatchNorm, becomes one affine map."""
    conv, norm = nn.Conv2d(C, 1, 1), nn.BatchNorm2d(1)
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(2.0)
    randomised(norm)
    layers = {"fc.0": nn.Linear(C, 4), "fc.2": nn.Linear(4, 4 * C), "spa.0": conv, "spa.1": norm.eval()}
    saved = {f"{key}.{k}": v for key, layer in layers.items() for k, v in layer.state_dict().items()}
    module = AN.DyReLUC(C, hidden=4, normalizer="hard_sigmoid")
    module.load_state_dict(saved)
    flat = {k: v for k, v in saved.items() if k.startswith("fc")}
    lines = AN.DyReLUB(C, hidden=4, normalizer="hard_sigmoid")
    lines.load_state_dict(flat)
    x = 3 * sample()
    share = torch.softmax(norm(conv(x)).flatten(1), 1).reshape(2, 1, 4, 5)
    expected = lines(x) * F.hardtanh(share * 20, 0, 3) / 3
    # Float32 sums of some tens of terms in another order: tens of roundings, of 6e-8 each.
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
    assert module.tau == 1.0 and module.gain == 1.0


def test_temperature_is_saved() -> None:
    first, second = AN.DyReLUC(C), AN.DyReLUC(C)
    first.tau = 2.5
    second.load_state_dict(first.state_dict())
    assert second.tau == 2.5
