"""DY-ReLU C from DY-ReLU: the lines by its kernel, the attention over positions by matrix products.

Chen et al. 2020, section 3.3. Nothing but x and the means is kept for the backward pass; lines and attention are
computed again from x, which is read three times in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from actswap.ops.contract import Kernel

_LINES = 7  # x and the six tensors of the lines; then ws, bs, tau, gain, dim


def with_attention(lines: Kernel) -> Kernel:
    """Return the kernel of `dy_relu_c` from that of `dy_relu`."""

    def of_lines(args: Sequence[Any], x: Tensor) -> tuple[Any, ...]:
        return (x, *args[1:_LINES], args[-1])

    def refuses(args: Sequence[Any]) -> str:
        return lines.refuses(of_lines(args, args[0]))

    def forward(args: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
        x, ws, bs, tau, gain, dim = args[0], *args[_LINES:]
        t = x.float()  # the half types round once, at the end
        y, means = lines.forward(of_lines(args, t))
        with torch.autocast(x.device.type, enabled=False):
            y.mul_(_placed(_gate(_score(_flat(t, dim), ws, bs), tau, gain), t, dim))
        return y.to(x.dtype), means

    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(grad: Tensor, args: Sequence[Any], aux: Tensor | None, needs: Sequence[bool]) -> list[Tensor | None]:
        x, ws, bs, tau, gain, dim = args[0], *args[_LINES:]
        t, g = x.float(), grad.float()
        held = of_lines(args, t)
        flat = _flat(t, dim)
        score = _score(flat, ws, bs).requires_grad_()
        with torch.enable_grad():
            gate = _gate(score, tau, gain)
        towards = _flat(lines.forward(held)[0].mul_(g), dim).sum(1)
        (pull,) = torch.autograd.grad(gate, score, towards)
        through = g * _placed(gate.detach(), t, dim)
        found = lines.backward(through, held, aux, needs[:_LINES])
        if found[0] is not None:
            shape = [1] * t.dim()
            shape[dim] = -1
            found[0].addcmul_(ws.detach().float().reshape(shape), _placed(pull, t, dim))
            found[0] = found[0].to(x.dtype)
        weight = torch.bmm(flat, pull[:, :, None]).sum((0, 2)) if needs[_LINES] else None
        if weight is not None:
            weight = (weight if ws.numel() > 1 else weight.sum()).reshape(ws.shape).to(ws.dtype)
        bias = torch.zeros_like(bs) if needs[_LINES + 1] else None  # the softmax ignores a shift
        return [*found, weight, bias]

    return Kernel(lines.backend, refuses, forward, backward)


def _flat(t: Tensor, dim: int) -> Tensor:
    """View (N, ..., C, ...) as (N, C, positions)."""
    t = t.detach().movedim(dim, 1)
    return t.flatten(2) if t.dim() > 2 else t[:, :, None]


def _score(flat: Tensor, ws: Tensor, bs: Tensor) -> Tensor:
    """Compute ws . x + bs at every position: (N, positions)."""
    weights = ws.detach().float().expand(flat.shape[0], 1, flat.shape[1])
    return torch.bmm(weights, flat)[:, 0] + bs.detach().float()


def _gate(score: Tensor, tau: float, gain: float) -> Tensor:
    return gain * torch.clamp(torch.softmax(score / tau, 1) * (score.shape[1] / 3), max=1.0)


def _placed(gate: Tensor, t: Tensor, dim: int) -> Tensor:
    """View (N, positions) so that it broadcasts over t, one channel wide."""
    others = t.movedim(dim, 1).shape[2:]
    return gate.reshape(gate.shape[0], 1, *others).movedim(1, dim)
