"""DY-ReLU A and B: the special cases of Table 1 of Chen et al. 2020, and the checkpoints of both public codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from activation_modules import C, sample
from torch import nn

from actswap import functional as AF
from actswap import nn as AN


def dy(x: torch.Tensor, init: list[list[float]], k: int = 2) -> torch.Tensor:
    """DY-ReLU with constant coefficients: rows a_1 .. a_K, b_1 .. b_K of C values."""
    rows, c = torch.tensor(init, dtype=torch.float64), x.shape[1]
    w1, b1 = torch.randn(4, c, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    w2, b2 = torch.zeros(2 * k * c, 4, dtype=torch.float64), torch.zeros(2 * k * c, dtype=torch.float64)
    return AF.dy_relu(x, w1, b1, w2, b2, rows, torch.ones(2 * k, dtype=torch.float64), 1)


def test_dy_relu_static_special_cases() -> None:
    """ReLU a = (1, 0); LeakyReLU a = (1, s); PReLU a = (1, s_c)."""
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    none = [0.0] * 3
    assert torch.equal(dy(x, [[1.0] * 3, none, none, none]), F.relu(x))
    torch.testing.assert_close(dy(x, [[1.0] * 3, [0.1] * 3, none, none]), F.leaky_relu(x, 0.1))
    slopes = [0.1, 0.5, -0.2]
    expected = F.prelu(x, torch.tensor(slopes, dtype=torch.float64))
    torch.testing.assert_close(dy(x, [[1.0] * 3, slopes, none, none]), expected)


def test_dy_relu_is_squeeze_and_excite_with_one_line() -> None:
    """K = 1, b = 0, a = sigmoid(G): init 0.5 and range 0.5 turn 2 sigmoid - 1 into the gate."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    w1, b1 = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((4, 3), (4,)))
    w2, b2 = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 4), (3,)))
    rows = (torch.cat([v, torch.zeros_like(v)]) for v in (w2, b2))
    init = torch.tensor([[0.5] * 3, [0.0] * 3], dtype=torch.float64)
    y = AF.dy_relu(x, w1, b1, *rows, init, torch.tensor([0.5, 0.0], dtype=torch.float64), 1)
    gate = torch.sigmoid(F.relu(x.mean(2) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(y, x * gate[:, :, None])


def test_dy_relu_is_maxout_with_k_lines() -> None:
    """Static coefficients: the maximum of K lines of each channel."""
    g = torch.Generator().manual_seed(3)
    x, lines = torch.randn(2, 3, 9, generator=g, dtype=torch.float64), torch.randn(8, 3, generator=g)
    expected = torch.stack([lines[k][:, None] * x + lines[4 + k][:, None] for k in range(4)]).amax(0)
    torch.testing.assert_close(dy(x, lines.tolist(), 4), expected)


def test_dy_relu_coefficient_ranges() -> None:
    """a_1 in (0, 2), a_2 in (-1, 1), b in (-0.5, 0.5) with the defaults."""
    for z, a1, b in ((50.0, 2.0, 0.5), (-50.0, 0.0, -0.5)):
        module = AN.DyReLUB(1).double()
        module.load_start({"fc2.bias": z})
        x = torch.tensor([[[100.0, -100.0]]], dtype=torch.float64)
        expected = [max(a1 * v + b, (a1 - 1) * v + b) for v in (100.0, -100.0)]
        assert module(x).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("shared", [True, False], ids=["A", "B"])
@pytest.mark.parametrize("k", [2, 3])
def test_dy_relu_checkpoint_of_islanna(shared: bool, k: int) -> None:
    """fc2 rows ordered channel by channel, a_1 .. a_K, b_1 .. b_K within each."""
    hidden, rows = 4, 2 * k * (1 if shared else C)
    saved = {
        "fc1.weight": sample(hidden, C, seed=1),
        "fc1.bias": sample(hidden, seed=2),
        "fc2.weight": sample(rows, hidden, seed=3),
        "fc2.bias": sample(rows, seed=4),
        "lambdas": torch.tensor([1.0] * k + [0.5] * k),
        "init_v": torch.tensor([1.0] + [0.0] * (2 * k - 1)),
    }
    module = (AN.DyReLUA if shared else AN.DyReLUB)(C, k=k, hidden=hidden)
    module.load_state_dict(saved)
    x = sample()
    z = F.relu(x.mean((2, 3)) @ saved["fc1.weight"].T + saved["fc1.bias"]) @ saved["fc2.weight"].T
    theta = (2 * torch.sigmoid(z + saved["fc2.bias"]) - 1).reshape(2, -1, 2 * k)
    coef = theta * saved["lambdas"] + saved["init_v"]
    lines = x.unsqueeze(-1) * coef[:, :, None, None, :k] + coef[:, :, None, None, k:]
    torch.testing.assert_close(module(x), lines.amax(-1))


@pytest.mark.parametrize("keys", [("fc.0", "fc.2"), ("conv1.conv", "conv2.conv")], ids=["DynamicHead", "mmdet"])
def test_dy_relu_checkpoint_of_microsoft(keys: tuple[str, str]) -> None:
    """Blocks a1, b1, a2, b2 of C rows, hard sigmoid."""
    hidden = 4
    layers = [nn.Linear(C, hidden), nn.Linear(hidden, 4 * C)]
    saved = {
        f"{key}.{k}": v * 3 for key, layer in zip(keys, layers, strict=True) for k, v in layer.state_dict().items()
    }
    module = AN.DyReLUB(C, hidden=hidden, normalizer="hard_sigmoid")
    module.load_state_dict(saved)
    x = sample()
    z = F.relu(x.mean((2, 3)) @ saved[f"{keys[0]}.weight"].T + saved[f"{keys[0]}.bias"])
    h = F.hardsigmoid(z @ saved[f"{keys[1]}.weight"].T + saved[f"{keys[1]}.bias"]).reshape(2, 4 * C, 1, 1)
    a1, b1, a2, b2 = h.split(C, 1)
    expected = torch.maximum(x * ((a1 - 0.5) * 2 + 1) + b1 - 0.5, x * (a2 - 0.5) * 2 + b2 - 0.5)
    # Float32 sums of some tens of terms in another order: tens of roundings, of 6e-8 each.
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
