"""DY-ReLU C: DY-ReLU B times an attention over positions (Chen et al. 2020, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from actswap import ops
from actswap.activations.base import Spec, StartContext, elements, per_channel, samples, widened
from actswap.activations.dy_relu import OPTIONS, RULES, DyReLU, coefficients, dy_relu_flops, max_of_lines
from actswap.activations.dy_relu_start import dy_relu_promise, dy_relu_start
from actswap.activations.options import Real, Rule, check
from actswap.sites import Source, Start


def dy_relu_c_formula(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    init: Tensor,
    lambdas: Tensor,
    ws: Tensor,
    bs: Tensor,
    tau: float,
    gain: float,
    dim: int,
) -> Tensor:
    """DY-ReLU C: DY-ReLU times gain min(gamma softmax((ws . x + bs) / tau), 1), gamma = positions / 3.

    Args:
        x: (N, ..., C, ...).
        w1: (H, C).
        b1: (H,).
        w2: (2K C, H).
        b2: (2K C,).
        init: the coefficients' centres, (2K, C) or (2K, 1).
        lambdas: the coefficients' ranges, (2K,).
        ws: weights of the attention, (C,) or (1,).
        bs: bias of the attention, (1,).
        tau: temperature of the softmax over positions.
        gain: factor on the attention; 1 is the paper's form, 3 makes an even attention the identity.
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.

    >>> w1, b1, w2, b2 = torch.zeros(4, 2), torch.zeros(4), torch.zeros(8, 4), torch.zeros(8)
    >>> init = torch.tensor([1.0, 0.0, 0.0, 0.0]).reshape(4, 1).repeat(1, 2)
    >>> x, even = torch.ones(1, 2, 6), (torch.zeros(2), torch.zeros(1))  # weights of an even attention
    >>> dy_relu_c_formula(x, w1, b1, w2, b2, init, torch.ones(4), *even, 10.0, 3.0, 1).sum().item()
    12.0
    """
    t = widened(x)
    y = max_of_lines(t, coefficients(t, w1, b1, w2, b2, init, lambdas, dim), dim)
    return (y * attention(t, ws, bs, tau, gain, dim)).to(x.dtype)


def attention(t: Tensor, ws: Tensor, bs: Tensor, tau: float, gain: float, dim: int) -> Tensor:
    """The factor of each position: gain min(gamma softmax, 1), one channel wide."""
    weighted, features = t * per_channel(ws, t, dim).to(t.dtype), ws.numel()
    alone = t.dim() < 2 and features == 1  # no channel axis to sum over: each value is a sample of one position
    score = (weighted if alone else weighted.sum(dim, keepdim=True)) + bs.to(t.dtype).reshape(())
    count = samples(t, dim, features)
    flat = score.reshape(count, score.numel() // max(count, 1)) / tau
    gate = torch.clamp(torch.softmax(flat, 1) * (flat.shape[1] / 3), max=1.0)
    return gain * gate.reshape(score.shape)


dy_relu_c = ops.define(
    "dy_relu_c(Tensor x, Tensor w1, Tensor b1, Tensor w2, "
    "Tensor b2, Tensor init, Tensor lambdas, Tensor ws, "
    "Tensor bs, float tau, float gain, int dim) -> Tensor",
    dy_relu_c_formula,
)


class DyReLUC(DyReLU):
    """DY-ReLU C: DY-ReLU B times an attention over positions.

    With an even attention the factor is gain / 3, so gain = 3 begins as DY-ReLU B does; gain = 1 is the
    paper's form. `tau` is set during training by a schedule, from 10 down to 1 (`temperature_schedule`,
    `anneal`); it and the gain are kept in the state dict.

    Args:
        channels: width of the channel axis; None shares everything.
        channel_dim: index of the channel axis; axis 0 holds the samples.
        tau: temperature of the softmax.
        gain: factor on the attention.
        **options: as DyReLU.

    >>> unit = DyReLUC(channels=8)  # begins as ReLU
    >>> unit.tau = 1.0  # the temperature; a schedule lowers it
    >>> unit(torch.ones(1, 8, 4, 4)).sum().item()
    128.0
    """

    name = "dy_relu_c"
    annealed = "tau"
    stored_tau: Tensor
    stored_gain: Tensor

    def __init__(
        self,
        channels: int | None,
        channel_dim: int = 1,
        tau: float = 10.0,
        gain: float = 3.0,
        **options: Any,
    ) -> None:
        super().__init__(channels, channel_dim, **options)
        check("DyReLUC", _RULES, {"tau": tau, "gain": gain})
        self.ws = nn.Parameter(torch.zeros(self.width))
        self.bs = nn.Parameter(torch.zeros(1))
        self.register_buffer("stored_tau", torch.tensor(float(tau)))
        self.register_buffer("stored_gain", torch.tensor(float(gain)))
        self.read_constants()

    def read_constants(self) -> None:
        """Take the temperature and the gain from their buffers."""
        self._tau, self.gain = float(self.stored_tau), float(self.stored_gain)

    @property
    def tau(self) -> float:
        """Temperature of the softmax over positions."""
        return self._tau

    @tau.setter
    def tau(self, value: float) -> None:
        self.stored_tau.fill_(value)
        self._tau = float(value)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the maximum of the lines of this input, weighted by position."""
        dim = self.channel_dim
        if self.normalizer == "hard_sigmoid":
            t = widened(x)
            gate = attention(t, self.ws, self.bs, self.tau, self.gain, dim)
            return (max_of_lines(t, self._coefficients(t), dim) * gate).to(x.dtype)
        return dy_relu_c(x, *self._tensors(), self.ws, self.bs, self.tau, self.gain, dim)

    def adapt_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Accept Microsoft's spatial branch, a 1x1 convolution and its BatchNorm, as one affine map."""
        if prefix + "spa.0.weight" in state_dict:
            weight, bias = (state_dict.pop(f"{prefix}spa.0.{kind}") for kind in ("weight", "bias"))
            norm = {key: state_dict.pop(f"{prefix}spa.1.{key}") for key in _NORM}
            state_dict.pop(f"{prefix}spa.1.num_batches_tracked", None)
            factor = norm["weight"] / torch.sqrt(norm["running_var"] + 1e-5)
            state_dict[prefix + "ws"] = (weight.flatten() * factor).reshape(-1)
            state_dict[prefix + "bs"] = (bias - norm["running_mean"]) * factor + norm["bias"]
            state_dict[prefix + "stored_tau"] = torch.ones(())
            state_dict[prefix + "stored_gain"] = torch.ones(())
        super().adapt_state(state_dict, prefix)


_NORM = ("weight", "bias", "running_mean", "running_var")


def _start(source: Source, context: StartContext) -> Start:
    """The start of B, with an even attention of factor 1."""
    start = dy_relu_start(source, context, "dy_relu_c")
    even: Mapping[str, Any] = {"ws": 0.0, "bs": 0.0, "stored_gain": 3.0}
    return replace(start, params={**start.params, **even})


_RULES: Mapping[str, Rule] = {**RULES, "tau": Real(0.0, above=True), "gain": Real()}
SPEC = Spec(
    name="dy_relu_c",
    title="DY-ReLU B times an attention over positions",
    paper="Chen et al. 2020, Dynamic ReLU, variant C",
    build=DyReLUC,
    promise=dy_relu_promise,
    start=_start,
    options={**OPTIONS, "tau": 10.0, "gain": 3.0},
    rules=_RULES,
    flops=lambda module, shape: dy_relu_flops(module, shape) + 3 * elements(shape),
)
