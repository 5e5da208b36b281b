"""meta-ACON: the paper's three spaces, a start that no input moves, and the checkpoints of other projects."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from activation_modules import C, begun, error, grid, line, randomised, sample
from torch import nn

from actswap import nn as AN
from actswap.errors import UsageError
from actswap.sites import Source


def test_meta_acon_paper_forms() -> None:
    """channel: W2 W1 mean; layer: the sum over everything; pixel: each element. All at scale 1."""
    x = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer = AN.MetaAcon(6, space="layer", pool="sum").double()
    beta = torch.sigmoid(x.sum((1, 2, 3), keepdim=True))
    torch.testing.assert_close(layer(x), x * torch.sigmoid(beta * x))
    pixel = AN.MetaAcon(6, space="pixel").double()
    torch.testing.assert_close(pixel(x), x * torch.sigmoid(torch.sigmoid(x) * x))
    channel = AN.MetaAcon(6, pool="sum").double()
    with torch.no_grad():  # it starts at zero, where beta depends on nothing
        channel.fc2.weight.normal_()
        channel.fc2.bias.normal_()
    pooled = x.sum((2, 3))
    beta = torch.sigmoid(channel.fc2(channel.fc1(pooled)))[:, :, None, None]
    assert beta.std() > 0.1
    torch.testing.assert_close(channel(x), x * torch.sigmoid(beta * x))


def test_meta_acon_at_scale_1_cannot_be_sharp() -> None:
    """beta < 1: the distance from ReLU is at least 0.278 whatever G computes."""
    module = AN.MetaAcon(1, space="layer").double()
    module.load_start({"fc2.weight": 0.0, "fc2.bias": 50.0})
    x = line()
    assert (module(x) - F.relu(x)).abs().max() >= 0.2784


@pytest.mark.parametrize("space", ["channel", "layer", "pixel"])
@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_meta_acon_start_does_not_depend_on_the_input(space: str, pool: str) -> None:
    module, _ = begun("meta_acon", Source("silu"), space=space, pool=pool)
    x = grid()
    x[1] += 100.0
    assert error(module, Source("silu"), x).max() < 1e-12


def test_meta_acon_start_trains() -> None:
    """fc2 gets a gradient at once; fc1 follows when fc2 has left zero."""
    module, _ = begun("meta_acon", Source("relu"), 10.0)
    module(torch.randn(4, 4, 5, 5, dtype=torch.float64)).square().sum().backward()
    assert module.fc2.weight.grad.abs().max() > 0 and module.p1.grad.abs().max() > 0


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
        # Float32 sums of some tens of terms in another order: tens of roundings, of 6e-8 each.
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
