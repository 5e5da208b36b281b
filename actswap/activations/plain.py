"""The activations without trained parameters: what stands in people's networks, and ordinary targets too.

Each entry is a function of x and named constants. `evaluate` computes a `Source`, `SourceModule` is the
module that stands in for one after a call has been isolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from actswap.sites import Source


@dataclass(frozen=True)
class Plain:
    """One function: its name, formula, constants with defaults, and where it comes from."""

    name: str
    fn: Callable[..., Tensor]
    constants: Mapping[str, float] = field(default_factory=dict)
    paper: str = ""


def _prelu(x: Tensor, slope: Tensor | float) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _eis(x: Tensor, alpha: float, beta: float, gamma: float, delta: float, theta: float) -> Tensor:
    return x * F.softplus(x) ** alpha / (torch.sqrt(beta + gamma * x * x) + delta * torch.exp(-theta * x))


_TABLE = [
    Plain("identity", lambda x: x),
    Plain("relu", F.relu),
    Plain("relu6", F.relu6),
    Plain("leaky_relu", lambda x, slope: F.leaky_relu(x, slope), {"slope": 0.01}),
    Plain("prelu", _prelu, {"slope": 0.25}),
    Plain("elu", lambda x, alpha: F.elu(x, alpha), {"alpha": 1.0}),
    Plain("celu", lambda x, alpha: F.celu(x, alpha), {"alpha": 1.0}),
    Plain("selu", F.selu),
    Plain("silu", F.silu),
    Plain("swish", lambda x, beta: x * torch.sigmoid(beta * x), {"beta": 1.0}, "Ramachandran et al. 2017, eq. 1"),
    Plain("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
    Plain("gelu", F.gelu),
    Plain("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
    Plain("mish", F.mish),
    Plain("hardswish", F.hardswish),
    Plain("hardsigmoid", F.hardsigmoid),
    Plain("hardtanh", lambda x, low, high: F.hardtanh(x, low, high), {"low": -1.0, "high": 1.0}),
    Plain("tanh", torch.tanh),
    Plain("sigmoid", torch.sigmoid),
    Plain(
        "softplus",
        lambda x, beta, threshold: F.softplus(x, beta, threshold),
        {"beta": 1.0, "threshold": 20.0},
    ),
    Plain("softsign", F.softsign),
    Plain("logsigmoid", F.logsigmoid),
    Plain("tanhshrink", F.tanhshrink),
    Plain("hardshrink", lambda x, lambd: F.hardshrink(x, lambd), {"lambd": 0.5}),
    Plain("softshrink", lambda x, lambd: F.softshrink(x, lambd), {"lambd": 0.5}),
    Plain(
        "threshold",
        lambda x, threshold, value: F.threshold(x, threshold, value),
        {"threshold": 0.0, "value": 0.0},
    ),
    Plain("relu2", lambda x: F.relu(x).square()),
    Plain(
        "star_relu",
        lambda x, scale, bias: scale * F.relu(x).square() + bias,
        {"scale": 0.8944, "bias": -0.4472},
        "Yu et al. 2022, MetaFormer baselines, eq. 2",
    ),
    Plain(
        "tanhsoft1",
        lambda x, alpha: torch.tanh(alpha * x) * F.softplus(x),
        {"alpha": 0.87},
        "Biswas et al. 2020",
    ),
    Plain(
        "tanhsoft2",
        lambda x, beta, gamma: x * torch.tanh(beta * torch.exp(gamma * x)),
        {"beta": 0.6, "gamma": 1.0},
    ),
    Plain(
        "eis",
        _eis,
        {"alpha": 1.0, "beta": 1.16, "gamma": 0.0, "delta": 0.16, "theta": 0.0},
        "Biswas et al. 2020, EIS",
    ),
    Plain("max_sigmoid", lambda x: torch.maximum(x, torch.sigmoid(x)), paper="Ramachandran et al. 2017, Table 1"),
    Plain("cos_minus", lambda x: torch.cos(x) - x, paper="Ramachandran et al. 2017, Table 1"),
    Plain("min_sin", lambda x: torch.minimum(x, torch.sin(x)), paper="Ramachandran et al. 2017, Table 1"),
    Plain("atan2_minus", lambda x: torch.atan(x).square() - x, paper="Ramachandran et al. 2017, Table 1"),
    Plain("max_tanh", lambda x: torch.maximum(x, torch.tanh(x)), paper="Ramachandran et al. 2017, Table 1"),
    Plain("sinc_plus", lambda x: torch.sinc(x / torch.pi) + x, paper="Ramachandran et al. 2017, Table 1"),
    Plain("x_asinh2", lambda x: x * torch.asinh(x).square(), paper="Ramachandran et al. 2017, Table 1"),
]
PLAIN: Mapping[str, Plain] = {entry.name: entry for entry in _TABLE}


def evaluate(source: Source, x: Tensor, channel_dim: int = 1) -> Tensor:
    """Compute the source activation on x; per-channel constants broadcast along `channel_dim`."""
    plain = PLAIN[source.kind]
    constants: dict[str, Any] = dict(plain.constants)
    for name, value in source.params:
        if isinstance(value, tuple):
            shape = [1] * x.dim()
            shape[channel_dim] = len(value)
            constants[name] = torch.tensor(value, dtype=x.dtype, device=x.device).reshape(shape)
        else:
            constants[name] = value
    return plain.fn(x, **constants)


class SourceModule(nn.Module):
    """The source activation as a module of its own; without parameters, except PReLU's slopes as a buffer.

    Args:
        source: kind and constants.
        channel_dim: the axis that per-channel constants follow.
    """

    def __init__(self, source: Source, channel_dim: int = 1) -> None:
        super().__init__()
        self.source, self.channel_dim = source, channel_dim
        for name, value in source.params:
            if isinstance(value, tuple):
                self.register_buffer(name, torch.tensor(value), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the activation."""
        plain = PLAIN[self.source.kind]
        constants: dict[str, Any] = {**plain.constants, **dict(self.source.params)}
        for name, buffer in self.named_buffers(recurse=False):
            shape = [1] * x.dim()
            shape[self.channel_dim] = buffer.numel()
            constants[name] = buffer.to(x.dtype).reshape(shape)
        return plain.fn(x, **constants)

    def extra_repr(self) -> str:
        """Show the source."""
        return str(self.source)
