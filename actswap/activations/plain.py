"""The activations without trained parameters: what stands in people's networks, and ordinary targets too.

`PLAIN` is the one table of them. Adding a function adds one row: its formula, its constants, and, if it has constants
that code spells out, how to solve for them. The row makes it a source that is recognised in PyTorch models and ONNX
files by what it computes, a target, and a function for fits. `evaluate` computes a `Source`; `SourceModule` is the
module that stands in for one after a call has been isolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from actswap.activations import formula, stable
from actswap.sites import Source

At = Callable[[float], Tensor]  # the values of a function at one point, one for each channel
Constants = dict[str, Tensor]


@dataclass(frozen=True)
class Plain:
    """One function.

    Attributes:
        name: its kind, which is also torch's name for it if torch has it.
        fn: `fn(x, **constants)`.
        constants: names and defaults.
        paper: where it comes from.
        call: torch's names of the constants, if they are different; "" if torch's function does not take one.
        solve: finds the constants of a function that may be of this family; what it finds is checked afterwards. None
            means that only the defaults are recognised.
        guards: a constant of it limits the range; it must be a number to be recognised, since targets keep it as one.
    """

    name: str
    fn: Callable[..., Tensor]
    constants: Mapping[str, float] = field(default_factory=dict)
    paper: str = ""
    call: Mapping[str, str] = field(default_factory=dict)
    solve: Callable[[At], Constants] | None = None
    guards: bool = False


def _prelu(x: Tensor, slope: Tensor | float) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _celu(x: Tensor, alpha: Tensor | float) -> Tensor:
    return F.celu(x, alpha) if isinstance(alpha, float) else torch.where(x > 0, x, alpha * torch.expm1(x / alpha))


def _elu(x: Tensor, alpha: Tensor | float) -> Tensor:
    return F.elu(x, alpha) if isinstance(alpha, float) else torch.where(x > 0, x, alpha * torch.expm1(x))


def _softplus(x: Tensor, beta: Tensor | float, threshold: float) -> Tensor:
    if isinstance(beta, float):
        return F.softplus(x, beta, threshold)
    return F.softplus(x * beta, 1.0, threshold) / beta


def _hardsigmoid(x: Tensor, slope: Tensor | float) -> Tensor:
    if isinstance(slope, float) and slope == 1 / 6:
        return F.hardsigmoid(x)
    return torch.clamp(slope * x + 0.5, 0.0, 1.0)


def _acon_c(x: Tensor, p1: Tensor | float, p2: Tensor | float, beta: Tensor | float) -> Tensor:
    d = (p1 - p2) * x
    return d * torch.sigmoid(beta * d) + p2 * x


# How the constants follow from values of the function. `at(x)` has one value for each channel.
_FAR = 1e6


def _solve_snake(at: At) -> Constants:
    h = 1e-4
    first = (at(h) - h) / h**2  # a (1 - (a h)^2 / 3 + ...)
    return {"a": first * (1 + (first * h) ** 2 / 3)}


def _solve_tanhsoft2(at: At) -> Constants:
    tiny = 1e-6
    beta, lower = torch.atanh(at(-tiny) / -tiny), torch.atanh(at(-1.0) / -1.0)
    gamma = -torch.log(lower / beta)
    return {"beta": beta * torch.exp(gamma * tiny), "gamma": gamma}


def _solve_threshold(at: At) -> Constants:
    edge = _identity_from(at, -1023.7)
    return {} if edge is None else {"threshold": edge, "value": at(-_FAR)}


def _solve_hardshrink(at: At) -> Constants:
    edge = _identity_from(at, 0.0)
    return {} if edge is None else {"lambd": edge}


def _identity_from(at: At, low: float) -> Tensor | None:
    """Where a function of one channel begins to be x, by bisection from `low`; None if it never does."""
    high = 1e3
    if at(high).numel() > 1 or float(at(high)) != high:
        return None
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if float(at(middle)) == middle else (middle, high)
    return torch.full_like(at(0.0), high)


def _solve_hardtanh(at: At) -> Constants:
    return {"low": at(-_FAR), "high": at(_FAR)}


_TABLE = [
    Plain("identity", lambda x: x),
    Plain("relu", F.relu),
    Plain("relu6", F.relu6),
    Plain(
        "leaky_relu",
        lambda x, slope: F.leaky_relu(x, slope) if isinstance(slope, float) else _prelu(x, slope),
        {"slope": 0.01},
        call={"slope": "negative_slope"},
        solve=lambda at: {"slope": -at(-1.0)},
    ),
    Plain("prelu", _prelu, {"slope": 0.25}),
    Plain("elu", _elu, {"alpha": 1.0}, solve=lambda at: {"alpha": -at(-_FAR)}),
    Plain("celu", _celu, {"alpha": 1.0}, solve=lambda at: {"alpha": -at(-_FAR)}),
    Plain("selu", F.selu),
    Plain("silu", F.silu),
    Plain(
        "swish",
        lambda x, beta: x * torch.sigmoid(beta * x),
        {"beta": 1.0},
        "Ramachandran et al. 2017, eq. 1",
        solve=lambda at: {"beta": torch.logit(at(0.5) / 0.5) / 0.5},
    ),
    Plain("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
    Plain("gelu", F.gelu),
    Plain("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
    Plain("mish", F.mish),
    Plain("hardswish", F.hardswish),
    Plain(
        "hardsigmoid",
        _hardsigmoid,
        {"slope": 1 / 6},
        call={"slope": ""},
        solve=lambda at: {"slope": (at(0.01) - at(-0.01)) / 0.02},
    ),
    Plain(
        "hardtanh",
        lambda x, low, high: torch.clamp(x, low, high),
        {"low": -1.0, "high": 1.0},
        solve=_solve_hardtanh,
        guards=True,
    ),
    Plain("tanh", torch.tanh),
    Plain("sigmoid", torch.sigmoid),
    Plain(
        "softplus",
        _softplus,
        {"beta": 1.0, "threshold": 20.0},
        solve=lambda at: {"beta": math.log(2) / at(0.0)},
    ),
    Plain("softsign", F.softsign),
    Plain("logsigmoid", F.logsigmoid),
    Plain("tanhshrink", F.tanhshrink),
    Plain(
        "hardshrink",
        lambda x, lambd: F.hardshrink(x, lambd) if isinstance(lambd, float) else x * (x.abs() > lambd),
        {"lambd": 0.5},
        solve=_solve_hardshrink,
        guards=True,
    ),
    Plain(
        "softshrink",
        lambda x, lambd: F.softshrink(x, lambd) if isinstance(lambd, float) else x.sign() * F.relu(x.abs() - lambd),
        {"lambd": 0.5},
        solve=lambda at: {"lambd": _FAR - at(_FAR)},
    ),
    Plain(
        "threshold",
        lambda x, threshold, value: torch.where(x > threshold, x, value),
        {"threshold": 0.0, "value": 0.0},
        solve=_solve_threshold,
        guards=True,
    ),
    Plain("relu2", lambda x: F.relu(x).square()),
    Plain(
        "star_relu",
        lambda x, scale, bias: scale * F.relu(x).square() + bias,
        {"scale": 0.8944, "bias": -0.4472},
        "Yu et al. 2022, MetaFormer baselines, eq. 2",
        solve=lambda at: {"scale": at(1.0) - at(-1.0), "bias": at(-1.0)},
    ),
    Plain(
        "tanhsoft1",
        lambda x, alpha: torch.tanh(alpha * x) * F.softplus(x),
        {"alpha": 0.87},
        "Biswas et al. 2020",
        solve=lambda at: {"alpha": 2 * torch.atanh(at(0.5) / F.softplus(torch.tensor(0.5, dtype=torch.float64)))},
    ),
    Plain("tanhexp", stable.tanh_exp, paper="Liu and Di 2020, TanhExp"),
    Plain("phish", lambda x: x * torch.tanh(F.gelu(x)), paper="Naveen 2022, Phish"),
    Plain("lisht", lambda x: x * torch.tanh(x), paper="Roy et al. 2019, LiSHT"),
    Plain(
        "snake",
        lambda x, a: x + torch.sin(a * x).square() / a,
        {"a": 1.0},
        "Ziyin et al. 2020, Neural networks fail to learn periodic functions, eq. 3",
        solve=_solve_snake,
    ),
    Plain(
        "tanhsoft2",
        stable.tanh_exp,
        {"beta": 0.6, "gamma": 1.0},
        solve=_solve_tanhsoft2,
    ),
    Plain(
        "eis",
        stable.eis,
        {"alpha": 1.0, "beta": 0.0, "gamma": 1.0, "delta": 1.16, "theta": 1.0},
        "Biswas et al. 2020, EIS",
    ),
    Plain("max_sigmoid", lambda x: torch.maximum(x, torch.sigmoid(x)), paper="Ramachandran et al. 2017, Table 1"),
    Plain("cos_minus", lambda x: torch.cos(x) - x, paper="Ramachandran et al. 2017, Table 1"),
    Plain("min_sin", lambda x: torch.minimum(x, torch.sin(x)), paper="Ramachandran et al. 2017, Table 1"),
    Plain("atan2_minus", lambda x: torch.atan(x).square() - x, paper="Ramachandran et al. 2017, Table 1"),
    Plain("max_tanh", lambda x: torch.maximum(x, torch.tanh(x)), paper="Ramachandran et al. 2017, Table 1"),
    Plain("sinc_plus", lambda x: torch.sinc(x / torch.pi) + x, paper="Ramachandran et al. 2017, Table 1"),
    Plain("x_asinh2", lambda x: x * torch.asinh(x).square(), paper="Ramachandran et al. 2017, Table 1"),
    Plain(
        "acon_c",
        _acon_c,
        {"p1": 1.0, "p2": 0.0, "beta": 1.0},
        "Ma et al. 2021, Activate or Not, eq. 4",
    ),
]
PLAIN: Mapping[str, Plain] = {entry.name: entry for entry in _TABLE}


def evaluate(source: Source, x: Tensor, channel_dim: int = 1) -> Tensor:
    """Compute the source activation on x; per-channel constants broadcast along `channel_dim`.

    >>> evaluate(Source.of("leaky_relu", slope=0.5), torch.tensor([[-2.0, 3.0]]))
    tensor([[-1.,  3.]])
    """
    constants: dict[str, Any] = {}
    for name, value in source.params:
        if isinstance(value, tuple):
            shape = [1] * x.dim()
            shape[channel_dim] = len(value)
            constants[name] = torch.tensor(value, dtype=x.dtype, device=x.device).reshape(shape)
        else:
            constants[name] = value
    return compute(source, x, constants)


def compute(source: Source, x: Tensor, constants: Mapping[str, Any]) -> Tensor:
    """Compute the function of a source with other values of its constants.

    Args:
        source: kind or expression.
        x: the input.
        constants: numbers, or tensors that broadcast with x; defaults stand for those not given.

    Returns:
        A tensor like x.
    """
    if source.formula:
        values = [constants[f"p{k}"] for k in range(len(constants))]
        return formula.compute(formula.parse(source.formula), x, values)
    plain = PLAIN[source.kind]
    return plain.fn(x, **{**plain.constants, **constants})


def known(source: Source) -> bool:
    """Whether `evaluate` can compute the source: not if it is a module of the user's own."""
    return bool(source.formula) or source.kind in PLAIN


class SourceModule(nn.Module):
    """The source activation as a module of its own.

    Constants that the model trains are parameters here too; other constants by channel are buffers.

    Args:
        source: kind and constants.
        channel_dim: the axis that per-channel constants follow.

    >>> SourceModule(Source.of("prelu", slope=(0.5, 0.25)))(torch.tensor([[-4.0, -4.0]]))
    tensor([[-2., -1.]])
    """

    def __init__(self, source: Source, channel_dim: int = 1) -> None:
        super().__init__()
        self.source, self.channel_dim = source, channel_dim
        trained = {name for name, _ in source.trained}
        for name, value in source.params:
            if name in trained:
                self.register_parameter(name, nn.Parameter(torch.tensor(value)))
            elif isinstance(value, tuple):
                self.register_buffer(name, torch.tensor(value), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the activation."""
        constants: dict[str, Any] = dict(self.source.params)
        for tensors in (self._parameters, self._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    shape = [1] * x.dim()
                    if tensor.dim():
                        shape[self.channel_dim] = tensor.numel()
                    constants[name] = tensor.to(x.dtype).reshape(shape if tensor.dim() else ())
        return compute(self.source, x, constants)

    def extra_repr(self) -> str:
        """Show the source."""
        return str(self.source)
