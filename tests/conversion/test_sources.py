"""Every source: its constants, its cap and its slopes are taken over."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conversion_nets import ROWS, X, alias, rows
from torch import Tensor, nn

import actswap
import actswap.errors
from actswap.activations.bounded import Bounded


@pytest.mark.parametrize(
    ("act", "cap"), [(nn.ReLU6(), 6.0), (nn.Hardtanh(), 1.0), (nn.Hardtanh(-2.0, 0.5), 0.5), (nn.Hardtanh(0, 4.0), 4.0)]
)
def test_caps_are_kept(act: nn.Module, cap: float) -> None:
    model = rows(act)
    with torch.no_grad():
        model[0].weight.mul_(20)
    result = actswap.convert(model, "acon_c", ROWS)
    placed = result.model[1]
    assert isinstance(placed, Bounded) and placed.cap == cap
    assert placed(torch.full((1, 6), 50.0)).max().item() == cap
    x = torch.linspace(-10, 10, 606).reshape(-1, 6)
    assert (placed(x) - act(x)).abs().max().item() <= result.report.replaced[0].bound * 1.01


@pytest.mark.parametrize("before", ["linear", "conv"])
@pytest.mark.parametrize("target", ["acon_c", "meta_acon", "dy_relu_b"])
def test_prelu_slopes_of_every_sign_and_size(before: str, target: str) -> None:
    slopes = [0.25, 1.0, 1.7, -0.4, 0.0, 3.0]
    torch.manual_seed(0)
    prelu = nn.PReLU(6)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor(slopes))
    if before == "linear":
        model, x = nn.Sequential(nn.Linear(6, 6), prelu, nn.Linear(6, 6)).eval(), ROWS
    else:
        model, x = nn.Sequential(nn.Conv2d(3, 6, 3), prelu, nn.Conv2d(6, 2, 1)).eval(), X
    result = actswap.convert(model, target, x)
    (row,) = result.report.replaced
    assert row.site.source.get("slope") == pytest.approx(tuple(slopes))
    assert row.start in ("limit", "exact", "morph")
    if target != "dy_relu_b":
        assert row.start == "limit"
        assert torch.equal(torch.as_tensor(result.model[1].p2), torch.tensor(slopes))
    back = actswap.revert(result.model)
    assert torch.equal(back[1].weight, prelu.weight) and list(back.state_dict()) == list(model.state_dict())


def test_prelu_with_no_layer_around_it() -> None:
    model = nn.Sequential(nn.PReLU(3)).eval()
    (site,) = actswap.scan(model, X)
    assert (site.channels, site.channel_dim) == (3, 1)
    assert actswap.convert(model, "meta_acon", X).report.ok


def test_parts_of_a_formula_that_others_read() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = self.a(x)
        s = torch.sigmoid(h)
        r = F.relu(h)
        return self.b(h * s + r**2) * s + r

    model = alias(forward)
    result = actswap.convert(model, "acon_c", ROWS)
    assert result.report.ok and result.report.census is not None and result.report.census.complete
    assert sorted(r.site.source.kind for r in result.report.replaced) == ["relu", "relu2", "silu"]


def test_prelu_of_one_slope() -> None:
    model = rows(nn.PReLU(init=0.4))
    result = actswap.convert(model, "acon_c", ROWS)
    assert result.report.replaced[0].site.source.get("slope") == pytest.approx(0.4)
    assert result.model[1].p2.tolist() == pytest.approx([0.4] * 6)


@pytest.mark.parametrize("act", [nn.LeakyReLU(0.3), nn.LeakyReLU()])
def test_leaky_slopes_are_taken_over(act: nn.LeakyReLU) -> None:
    result = actswap.convert(rows(act), "acon_c", ROWS)
    assert result.model[1].p2.tolist() == pytest.approx([act.negative_slope] * 6)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_variants_stay_apart(approximate: str) -> None:
    model = rows(nn.GELU(approximate=approximate))
    result = actswap.convert(model, "acon_c", ROWS, start="morph")
    assert result.report.replaced[0].site.source.kind == ("gelu" if approximate == "none" else "gelu_tanh")
    assert torch.equal(result.model(ROWS), model(ROWS))


@pytest.mark.parametrize(
    "act",
    [
        nn.ReLU(),
        nn.ReLU6(),
        nn.LeakyReLU(),
        nn.PReLU(),
        nn.ELU(),
        nn.CELU(0.5),
        nn.SELU(),
        nn.SiLU(),
        nn.GELU(),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.Hardtanh(),
        nn.Mish(),
        nn.Softplus(),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Softsign(),
        nn.LogSigmoid(),
        nn.Tanhshrink(),
        nn.Hardshrink(),
        nn.Softshrink(),
        nn.Threshold(0.1, 0.0),
        nn.RReLU(),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize("target", ["acon_c", "pau"])
def test_every_torch_activation_can_be_replaced(act: nn.Module, target: str) -> None:
    model = rows(act)
    result = actswap.convert(model, target, ROWS, tolerance=1e-2)
    assert [r.site.name for r in result.report.replaced] == ["1"]
    assert result.report.ok
    morphed = actswap.convert(model, target, ROWS, start="morph")
    # (1 - 0) * source + 0 * target: the source's own bits, but for a value computed by torch's kernel in another way.
    torch.testing.assert_close(morphed.model(ROWS), model(ROWS), atol=1e-6, rtol=1e-6)
