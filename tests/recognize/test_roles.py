"""What an activation is for, and which axis holds its channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_models import EXACT, IMAGE, ROWS, check, module_of, scan
from torch import Tensor, nn

import actswap
import actswap.errors


class SqueezeExcite(nn.Module):
    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.conv, self.down, self.up, self.act, self.gate = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 8, 1),
            nn.ReLU(),
            gate,
        )
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        s = self.gate(self.up(self.act(self.down(y.mean((2, 3), keepdim=True)))))
        return self.out(y * s)


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid()], ids=["sigmoid", "hardsigmoid"])
def test_squeeze_and_excite(gate: nn.Module) -> None:
    model = SqueezeExcite(gate).eval()
    assert [(s.name, s.role) for s in scan(model, IMAGE)] == [("act", "activation"), ("gate", "gate")]
    result = actswap.convert(model, "acon_c", IMAGE)
    (left,) = result.report.left
    assert left.site.name == "gate"
    assert "gate" in left.reason
    assert type(result.model.gate) is type(gate)
    result = actswap.convert(model, "pau", IMAGE, only="role:gate")
    assert [r.site.name for r in result.report.replaced] == ["gate"]


def test_gated_linear_units() -> None:
    model = module_of(lambda self, x: self.b(F.silu(self.a(x)) * self.a(x)))
    assert [(s.name, s.role, s.how) for s in scan(model, ROWS)] == [("silu", "activation", "island")]

    def geglu(self: nn.Module, x: Tensor) -> Tensor:
        y, g = self.c(x).chunk(2, -1)
        return self.b(y * F.gelu(g))

    model = module_of(geglu, c=nn.Linear(6, 12))
    assert [(s.name, s.role, s.channels) for s in scan(model, ROWS)] == [("gelu", "activation", 6)]
    model = nn.Sequential(nn.Linear(6, 12), nn.GLU(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6))
    glu, silu = scan(model, ROWS)
    assert (glu.source.kind, glu.role, glu.how) == ("glu", "gate", "left")
    assert "gate" in glu.reason
    assert silu.name == "3"
    check(model, ROWS)


def test_a_sigmoid_at_the_output_is_a_gate_and_one_between_layers_an_activation() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 1), nn.Sigmoid())
    assert [s.role for s in scan(model, ROWS)] == ["activation", "gate"]
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    assert [s.role for s in scan(model, ROWS)] == ["activation"]
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.SiLU(), nn.Linear(6, 1))
    assert [s.role for s in scan(model, ROWS)] == ["activation", "activation"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_listed_with_their_reason(kind: type[nn.RNNBase]) -> None:
    model = module_of(lambda self, x: self.b(self.act(self.rnn(x)[0])), rnn=kind(6, 6, batch_first=True), act=nn.SiLU())
    x = torch.randn(2, 5, 6)
    sites = {s.name: s for s in scan(model, x)}
    assert sites["rnn"].how == "left"
    assert "recurrent" in sites["rnn"].reason
    result = actswap.convert(model, "acon_c", x)
    assert [r.site.name for r in result.report.replaced] == ["act"]
    assert "rnn" in [entry.site.name for entry in result.report.left]
    assert result.report.ok


CONV = nn.Conv2d(3, 5, 3, padding=1)


def nhwc(self: nn.Module, x: Tensor) -> Tensor:
    return self.c(F.silu(self.d(self.conv(x).permute(0, 2, 3, 1))))


def tokens(self: nn.Module, x: Tensor) -> Tensor:
    return self.c(F.silu(self.d(self.conv(x).flatten(2).transpose(1, 2))))


def sequence(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.one(self.conv(x).flatten(2)))


def volume(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.three(x[:, :, None]))


def pooled(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.conv(x)).mean((2, 3))


def vector(self: nn.Module, x: Tensor) -> Tensor:
    return self.c(F.silu(self.d(self.conv(x).mean((2, 3)))))


def concatenated(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(torch.cat([self.conv(x), x], 1))


def halves(self: nn.Module, x: Tensor) -> Tensor:
    y, z = self.wide(x).chunk(2, dim=1)
    return F.silu(y) + z


def sliced(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.wide(x)[:, :4])


def normalised(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.norm(self.conv(x).permute(0, 2, 3, 1)))


def before_layer(self: nn.Module, x: Tensor) -> Tensor:
    return self.conv(F.silu(x))


def added(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.conv(x) + self.conv(x).mean((2, 3), keepdim=True))


def reshaped(self: nn.Module, x: Tensor) -> Tensor:
    y = self.conv(x)
    return F.silu(y.reshape(y.shape[0], y.shape[1], -1))


def upsampled(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(F.interpolate(self.conv(x), scale_factor=2.0))


def flattened(self: nn.Module, x: Tensor) -> Tensor:
    return self.flat(F.silu(self.conv(x).flatten(1)))


def gathered(self: nn.Module, x: Tensor) -> Tensor:
    y = self.conv(x).mean((2, 3))
    return self.d(F.silu(y[torch.zeros(9, dtype=torch.long)]))


def summed(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.wide(x).flatten(2).transpose(1, 2).sum(1))


@pytest.mark.parametrize(
    ("forward", "channels", "dim"),
    [
        (gathered, 5, 1),
        (summed, 10, 1),
        (pooled, 5, 1),
        (nhwc, 7, -1),
        (tokens, 7, -1),
        (sequence, 9, 1),
        (volume, 4, 1),
        (vector, 7, 1),
        (concatenated, 8, 1),
        (halves, 5, 1),
        (sliced, 4, 1),
        (normalised, 5, -1),
        (before_layer, 3, 1),
        (added, 5, 1),
        (reshaped, 5, 1),
        (upsampled, 5, 1),
        (flattened, 5 * 64, 1),
    ],
)
def test_channel_axis(forward: Callable[..., Tensor], channels: int, dim: int) -> None:
    children = {
        "conv": CONV,
        "d": nn.Linear(5, 7),
        "c": nn.Linear(7, 5),
        "one": nn.Conv1d(5, 9, 3),
        "three": nn.Conv3d(3, 4, 1),
        "wide": nn.Conv2d(3, 10, 1),
        "norm": nn.LayerNorm(5),
        "flat": nn.Linear(320, 2),
    }
    model = module_of(forward, **children)
    (site,) = scan(model, IMAGE)
    assert (site.channels, site.channel_dim) == (channels, dim)
    new = check(model, IMAGE, tolerance=EXACT)
    (target,) = (m for m in new.modules() if type(m).__name__ == "AconC")
    assert target.p1.shape == (channels,)
    other = torch.randn(3, 3, 8, 8)
    # SiLU to ACON-C is exact to rounding: EXACT, or a few roundings of outputs that hardly vary.
    assert actswap.verify(model, new, other).within(EXACT)


def test_a_sum_over_the_channels_leaves_none() -> None:
    """Scores of edges or tokens have no channel axis: one set of parameters, whatever their number."""

    def scores(self: nn.Module, x: Tensor) -> Tensor:
        y = self.d(self.conv(x).flatten(2).transpose(1, 2))
        return y * F.silu(y.sum(-1))[..., None].exp()

    model = module_of(scores, conv=CONV, d=nn.Linear(5, 7))
    (site,) = scan(model, IMAGE)
    assert site.channels is None
    new = check(model, IMAGE, tolerance=EXACT)
    other = torch.randn(2, 3, 5, 9)
    torch.testing.assert_close(new(other), model(other))


def test_attention_kernels_have_no_channels() -> None:
    """ReLU attention: the activation acts on the scores, whose axes are positions."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        q, k, v = self.a(x), self.b(x), x
        return self.b(F.relu(q @ k.transpose(1, 2)) @ v)

    x = torch.randn(2, 5, 6)
    model = module_of(forward)
    (site,) = scan(model, x)
    assert site.channels is None
    new = check(model, x)
    longer = torch.randn(2, 9, 6)
    assert actswap.verify(model, new, longer).rel < 5e-3
