"""meta-ACON: ACON-C whose sharpness is computed from the input (Ma et al. 2021, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from actswap import ops
from actswap.activations.acon_start import Member, acon_lines, acon_promise
from actswap.activations.base import (
    Activation,
    Spec,
    StartContext,
    affine,
    elements,
    per_channel,
    per_sample,
    pooled_mean,
    samples,
    widened,
    with_sharing,
)
from actswap.activations.options import Flag, OneOf, Real, Rule, Whole, check
from actswap.activations.sharpness import each
from actswap.activations.smooth_maximum import SMOOTH_FLOPS, smooth_maximum_of_lines
from actswap.errors import UsageError
from actswap.sites import Number, Source, Start


def meta_acon_formula(
    x: Tensor,
    p1: Tensor,
    p2: Tensor,
    scale: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    dim: int,
) -> Tensor:
    """ACON-C with beta = scale sigmoid(w2 (w1 m + b1) + b2), m the mean over positions, one beta per sample.

    Args:
        x: (N, ..., C, ...).
        p1: slope of the first line, (C,) or (1,).
        p2: slope of the second line, (C,) or (1,).
        scale: upper bound of beta, (C,) or (1,).
        w1: (H, C); (H, 1) pools over the channels too.
        b1: (H,).
        w2: (C, H); (1, H) gives one beta per sample.
        b2: (C,) or (1,).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.

    >>> one, w1, b1 = torch.ones(3), torch.zeros(2, 3), torch.zeros(2)
    >>> w2, b2 = torch.zeros(3, 2), torch.zeros(3)  # beta = 2 sigmoid(0) = 1: SiLU
    >>> meta_acon_formula(torch.tensor([[-1.0, 0.0, 2.0]]), one, 0 * one, 2 * one, w1, b1, w2, b2, 1)
    tensor([[-0.2689,  0.0000,  1.7616]])
    """
    t = widened(x)
    m = pooled_mean(t, dim, w1.shape[1])
    beta = scale.to(t.dtype) * torch.sigmoid(affine(w2, b2, affine(w1, b1, m)))
    p1, p2 = (per_channel(v, t, dim).to(t.dtype) for v in (p1, p2))
    return smooth_maximum_of_lines(t, p1, p2, per_sample(beta, t, dim)).to(x.dtype)


meta_acon = ops.define(
    "meta_acon(Tensor x, Tensor p1, Tensor p2, Tensor scale, Tensor w1, "
    "Tensor b1, Tensor w2, Tensor b2, int dim) -> Tensor",
    meta_acon_formula,
)


SPACES = ("channel", "layer", "pixel")
POOLS = ("mean", "sum")


class Elementwise(nn.Module):
    """weight x + bias per channel: the function G of the pixel-wise space."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))


class MetaAcon(Activation):
    """meta-ACON: ACON-C with beta = scale sigmoid(G(x)); loads the original checkpoints (`bn=True`).

    G by space: `channel` fc2(fc1(pooled x)), a beta per sample and channel; `layer` fc2 of the pool over the
    channels too, a beta per sample; `pixel` an elementwise line, a beta per element. With fc2 at zero beta is
    scale / 2 whatever the input. scale = 1 is the paper's form. beta="raw" leaves the sigmoid out: beta = scale G(x)
    may pass through 0. It is `scale` if fc2 has zero weights and a bias of 1.

    Args:
        channels: width of the channel axis; None for one set per layer.
        channel_dim: index of the channel axis; axis 0 holds the samples.
        space: `channel`, `layer` or `pixel`.
        r: reduction of the hidden width, max(r, channels // r).
        pool: `mean` as in the released code, `sum` as the paper prints it.
        bn: BatchNorm after fc1 and fc2, as in the released code; cannot train on one sample.
        scale: upper bound of beta.
        beta: `sigmoid`, the paper's, or `raw`; `log` means `sigmoid`, which is how this unit keeps beta positive.

    Raises:
        UsageError: an option has a value that it cannot have, or `bn` outside the channel-wise space.

    >>> MetaAcon(8, beta="raw")(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    name = "meta_acon"
    scale: Tensor

    def __init__(
        self,
        channels: int | None,
        channel_dim: int = 1,
        space: str = "channel",
        r: int = 16,
        pool: str = "mean",
        bn: bool = False,
        scale: float = 1.0,
        beta: str = "sigmoid",
    ) -> None:
        super().__init__(channels, channel_dim)
        given = {"space": space, "r": r, "pool": pool, "bn": bn, "scale": scale, "beta": beta}
        check("MetaAcon", _RULES, given)
        if bn and space != "channel":
            raise UsageError("MetaAcon(bn=True)", why="only the channel-wise G has layers to normalise")
        self.space, self.pool, self.raw = space, pool, beta == "raw"
        self.p1 = nn.Parameter(torch.ones(self.width))
        self.p2 = nn.Parameter(torch.zeros(self.width))
        self.register_buffer("scale", torch.full((self.width,), float(scale)))
        hidden = max(r, self.width // r)
        self.fc1 = nn.Linear(self.width, hidden) if space == "channel" else None
        self.bn1 = nn.BatchNorm1d(hidden) if bn else None
        self.fc2: nn.Module = (
            nn.Linear(hidden, self.width) if space == "channel" else Elementwise(1 if space == "layer" else self.width)
        )
        self.bn2 = nn.BatchNorm1d(self.width) if bn else None
        if self.raw:
            nn.init.zeros_(self.fc2.weight)
            nn.init.ones_(self.fc2.bias)

    def load_start(self, params: Mapping[str, Number]) -> None:
        """Write start values; they are those of the sigmoid, half of whose scale is beta."""
        rest = dict(params)
        if self.raw and "scale" in rest:
            rest.update({"scale": each(rest["scale"], lambda s: s / 2), "fc2.weight": 0.0, "fc2.bias": 1.0})
        super().load_start(rest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ACON-C with the beta of this input."""
        weight, bias = cast(Tensor, self.fc2.weight), cast(Tensor, self.fc2.bias)
        if self.space == "pixel":
            return self._with_beta(x, self._pixel_gate(x, weight, bias))
        if self.fc1 is None:
            w1, b1 = torch.ones_like(weight).reshape(1, 1), torch.zeros_like(bias)
            weight = weight.reshape(1, 1)
        else:
            w1, b1 = self.fc1.weight, self.fc1.bias
        if self.pool == "sum":
            features = w1.shape[1]
            w1 = w1 * (x.numel() // (samples(x, self.channel_dim, features) * features))
        if self.raw or self.bn1 is not None:
            t = widened(x)
            hidden = affine(w1, b1, pooled_mean(t, self.channel_dim, w1.shape[1]))
            z = affine(weight, bias, hidden) if self.bn1 is None else self._normalised(hidden, weight, bias)
            return self._with_beta(x, per_sample(self.scale.to(t.dtype) * self._squashed(z), t, self.channel_dim))
        return meta_acon(x, self.p1, self.p2, self.scale, w1, b1, weight, bias, self.channel_dim)

    def adapt_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Original checkpoints have no scale: theirs is 1."""
        if prefix + "p1" in state_dict:
            state_dict.setdefault(prefix + "scale", torch.ones_like(self.scale))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read modules that were pickled before `raw`."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__.setdefault("raw", False)

    def _normalised(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.training and hidden.shape[0] == 1:
            raise UsageError(
                "MetaAcon(bn=True) cannot train on a batch of one sample",
                why="BatchNorm has one value per channel to normalise here",
                fix="MetaAcon(bn=False), or at least two samples",
            )
        first, second = cast(nn.Module, self.bn1), cast(nn.Module, self.bn2)
        normalised: Tensor = second(affine(weight, bias, first(hidden)))
        return normalised

    def _pixel_gate(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        t = widened(x)
        scale, weight, bias = (per_channel(v, t, self.channel_dim).to(t.dtype) for v in (self.scale, weight, bias))
        return scale * self._squashed(weight * t + bias)

    def _squashed(self, z: Tensor) -> Tensor:
        return z if self.raw else torch.sigmoid(z)

    def _with_beta(self, x: Tensor, beta: Tensor) -> Tensor:
        t = widened(x)
        p1, p2 = (per_channel(v, t, self.channel_dim).to(t.dtype) for v in (self.p1, self.p2))
        return smooth_maximum_of_lines(t, p1, p2, beta).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the space and the pool."""
        return f"{super().extra_repr()}, space={self.space!r}, pool={self.pool!r}"


def _start(source: Source, context: StartContext) -> Start:
    """Scale 2 beta and fc2 zero: beta holds whatever the input."""
    p1, p2, beta, start = acon_lines(source, context, _MEMBER)
    scale = tuple(2.0 * b for b in beta) if isinstance(beta, tuple) else 2.0 * beta
    return replace(start, params={"p1": p1, "p2": p2, "scale": scale, "fc2.weight": 0.0, "fc2.bias": 0.0})


def _flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    unit = cast(Any, module)
    if unit.space == "pixel":  # beta of each element: a multiply-add, the sigmoid, a product
        return (SMOOTH_FLOPS + 6) * elements(shape)
    weights = sum(p.numel() for part in (unit.fc1, unit.fc2) if part is not None for p in part.parameters())
    return meta_acon_flops(shape, weights, unit.width)


def meta_acon_flops(shape: tuple[int, ...], weights: int, width: int) -> int:
    """ACON-C and the mean per element; per sample a multiply-add per weight of G, and `width` scaled sigmoids."""
    return (SMOOTH_FLOPS + 1) * elements(shape) + shape[0] * (weights + 5 * width)


_RULES: Mapping[str, Rule] = {
    "space": OneOf(SPACES),
    "r": Whole(),
    "pool": OneOf(POOLS),
    "bn": Flag(),
    "scale": Real(other_than=0.0),
    "beta": OneOf(("sigmoid", "log", "raw")),
    "per_channel": Flag(),
}
_MEMBER = Member("meta_acon", "p1 p2")
SPEC = Spec(
    name="meta_acon",
    title="ACON-C with beta computed from the input",
    paper="Ma et al. 2021, Activate or Not, section 3.3",
    build=with_sharing(MetaAcon, True),
    promise=lambda source: acon_promise(source, _MEMBER),
    start=_start,
    options={
        "space": "channel",
        "r": 16,
        "pool": "mean",
        "bn": False,
        "scale": 1.0,
        "beta": "sigmoid",
        "per_channel": True,
    },
    rules=_RULES,
    no_decay=("p1", "p2"),
    flops=_flops,
)
