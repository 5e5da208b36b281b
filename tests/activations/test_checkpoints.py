"""Checkpoints of the original implementations load into the modules."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from activation_modules import C, randomised, sample
from torch import nn

from actswap import nn as AN
from actswap.errors import UsageError


def test_original_acon_c_checkpoint() -> None:
    g = torch.Generator().manual_seed(0)
    saved = {key: torch.randn(1, C, 1, 1, generator=g) for key in ("p1", "p2", "beta")}
    module = AN.AconC(C)
    module.load_state_dict(saved)
    x = sample()
    d = saved["p1"] - saved["p2"]
    torch.testing.assert_close(module(x), d * x * torch.sigmoid(saved["beta"] * d * x) + saved["p2"] * x)
    assert (saved["beta"] < 0).any()  # the sign is kept


def test_original_meta_acon_checkpoint() -> None:
    """Convolution weights (H, C, 1, 1), BatchNorms, p1 and p2 (1, C, 1, 1), inside a larger model."""
    hidden = 16
    original = nn.ModuleDict(
        {
            "fc1": nn.Conv2d(C, hidden, 1),
            "bn1": nn.BatchNorm2d(hidden),
            "fc2": nn.Conv2d(hidden, C, 1),
            "bn2": nn.BatchNorm2d(C),
        }
    )
    randomised(original)
    x = sample(4, C, 5, 5)
    for part in ("bn1", "bn2"):
        original[part].running_mean.uniform_(-0.1, 0.1)
    saved = OrderedDict((f"act.{k}", v) for k, v in original.state_dict().items())
    saved["act.p1"], saved["act.p2"] = sample(1, C, 1, 1, seed=5), sample(1, C, 1, 1, seed=6)
    model = nn.ModuleDict({"act": AN.MetaAcon(C, bn=True)})
    model.load_state_dict(saved)
    for training in (False, True):
        original.train(training)
        model.train(training)
        z = x.mean((2, 3), keepdim=True)
        for part in ("fc1", "bn1", "fc2", "bn2"):
            z = original[part](z)
        p1, p2 = saved["act.p1"], saved["act.p2"]
        d = p1 - p2
        expected = d * x * torch.sigmoid(torch.sigmoid(z) * d * x) + p2 * x
        torch.testing.assert_close(model["act"](x), expected, rtol=1e-5, atol=1e-6)


def test_yolov5_meta_acon_checkpoint() -> None:
    fc1, fc2 = nn.Conv2d(C, 16, 1), nn.Conv2d(16, C, 1)
    saved = {
        **{f"fc1.{k}": v for k, v in fc1.state_dict().items()},
        **{f"fc2.{k}": v for k, v in fc2.state_dict().items()},
        "p1": sample(1, C, 1, 1),
        "p2": sample(1, C, 1, 1, seed=4),
    }
    module = AN.MetaAcon(C)
    module.load_start({"scale": 7.0})
    module.load_state_dict(saved)  # the paper's form: scale 1
    x = sample()
    d = saved["p1"] - saved["p2"]
    beta = torch.sigmoid(fc2(fc1(x.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(module(x), d * x * torch.sigmoid(beta * d * x) + saved["p2"] * x)


def test_batch_norm_on_one_sample_says_what_to_do() -> None:
    module = AN.MetaAcon(C, bn=True)
    with pytest.raises(UsageError, match="bn=False"):
        module(sample(1, C, 4, 4))
    module.eval()(sample(1, C, 4, 4))


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
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


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
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
    assert module.tau == 1.0 and module.gain == 1.0


def test_per_channel_shapes_load_from_any_layout() -> None:
    for shape in ((C,), (1, C, 1), (1, 1, C), (1, C, 1, 1)):
        module = AN.AconC(C)
        saved = {"p1": sample(*shape), "p2": sample(*shape), "beta": sample(*shape).abs()}
        module.load_state_dict(saved)
        assert torch.equal(module.p1, saved["p1"].flatten())
        torch.testing.assert_close(module.beta, saved["beta"].flatten())
