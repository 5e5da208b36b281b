"""The contract between an activation file and the rest: what a trainable activation must offer.

An activation file holds the formula, the module, the starts and the FLOP count, and ends with one
`SPEC = Spec(...)`; `activations/__init__.py` lists the SPECs. Adding one changes nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from actswap.activations.options import Flag, Rule, Whole, check
from actswap.errors import UsageError
from actswap.sites import Number, Source, Start

if TYPE_CHECKING:
    from actswap.fit.histogram import Histogram


@dataclass(frozen=True)
class StartContext:
    """What a start may use.

    Attributes:
        beta: sharpness asked of a `limit` start (convert searches it to keep the network within tolerance).
        histogram: pre-activation statistics of the site, None if nothing was calibrated.
        options: the options the target is built with, if they differ from the Spec's.
        minimax: fits of Padé units make the largest error on the range small instead of the mean square.
    """

    beta: float = 100.0
    histogram: Histogram | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    minimax: bool = False


@dataclass(frozen=True)
class OnnxFunction:
    """The ONNX form of an activation: one node in domain `actswap`, and its body in standard operators.

    Attributes:
        op: node name, e.g. `AconC`.
        inputs: input names, x first, then the parameters in the order of the torch operator.
        attributes: attribute names with their types, e.g. `{"axes": "ints"}`.
        body: statements in ONNX text syntax that compute `y`, opset 18 operators only.
    """

    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, str]
    body: str


@dataclass(frozen=True)
class Spec:
    """Everything the tool knows about one activation.

    Attributes:
        name: the name users type, e.g. `acon_c`.
        title: one line for `actswap list`.
        paper: reference with its equation.
        build: `build(channels, channel_dim, **options) -> nn.Module`; channels None means one set per layer.
        promise: the best start kind for a source, without looking at data: `exact`, `limit`, `fit` or `none`.
        start: the start for a source; raises StartError if the pair has none.
        options: option name -> default value.
        no_decay: parameter names that weight decay must not touch.
        flops: floating-point operations for `flops(module, input_shape)`.
        per_layer: whether one set can serve a whole layer, as it must if the channel axis is not clear.
        rules: what each option may be.
    """

    name: str
    title: str
    paper: str
    build: Callable[..., nn.Module]
    promise: Callable[[Source], str]
    start: Callable[[Source, StartContext], Start]
    options: Mapping[str, Any] = field(default_factory=dict)
    no_decay: tuple[str, ...] = ()
    flops: Callable[[nn.Module, tuple[int, ...]], int] | None = None
    per_layer: bool = True
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the activation does not have, or values that they cannot have.

        Raises:
            UsageError: with the known options, or what the value may be.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            known = ", ".join(f"{k}={v}" for k, v in self.options.items()) or "none"
            raise UsageError(
                f"{self.name} has no option {', '.join(unknown)}",
                fix=f"its options, with their defaults: {known}",
            )
        check(self.name, self.rules, options)


class Activation(nn.Module):
    """Base of the trainable activations: a channel count, a channel axis, and loading of start values.

    Args:
        channels: width of the channel axis; None shares one set of parameters over the layer.
        channel_dim: index of the channel axis in the input; negative counts from the back.
    """

    name: ClassVar[str] = ""

    def __init__(self, channels: int | None, channel_dim: int = 1) -> None:
        super().__init__()
        check(type(self).__name__, _SHAPE_RULES, {"channels": channels, "channel_dim": channel_dim})
        self.channels, self.channel_dim = channels, channel_dim

    @property
    def width(self) -> int:
        """Number of parameter sets: the channels, or 1 per layer."""
        return self.channels or 1

    @torch.no_grad()
    def load_start(self, params: Mapping[str, Number]) -> None:
        """Write start values: a float fills the tensor of that name, a tuple is reshaped to it."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, value in params.items():
            tensor = tensors[name]
            if isinstance(value, (int, float)):
                tensor.fill_(value)
            elif len(value) == tensor.numel():
                tensor.copy_(torch.tensor(value, dtype=torch.float64).reshape(tensor.shape))
            elif tensor.dim() and len(value) == tensor.shape[-1]:
                tensor.copy_(torch.tensor(value, dtype=torch.float64))
            else:
                raise UsageError(
                    f"{type(self).__name__}.load_start: {len(value)} values for {name}",
                    why=f"{name} has shape {tuple(tensor.shape)}",
                    fix=f"build it with channels={len(value)}",
                )
        self.read_constants()

    def read_constants(self) -> None:
        """Take over constants that operators need as numbers from the buffers that store them."""

    def adapt_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Rename and convert, in place, what earlier versions and the papers' code store under `prefix`."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Accept other keys, and tensors of another shape with as many values, e.g. (1, C, 1, 1) for (C,)."""
        self.adapt_state(state_dict, prefix)
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            value = state_dict.get(prefix + name)
            if value is not None and value.shape != tensor.shape and value.numel() == tensor.numel():
                state_dict[prefix + name] = value.reshape(tensor.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.read_constants()

    def extra_repr(self) -> str:
        """Show the channel count and axis."""
        return f"{'per layer' if self.channels is None else self.channels}, channel_dim={self.channel_dim}"


_SHAPE_RULES: Mapping[str, Rule] = {"channels": Whole(optional=True), "channel_dim": Whole(-64, 64)}


def per_channel(parameter: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """View a (C,) or (1,) parameter so that it broadcasts along `channel_dim` of x."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    dim = channel_dim % x.dim()
    return parameter.reshape((-1,) + (1,) * (x.dim() - 1 - dim))


def with_sharing(unit: Callable[..., nn.Module], per_channel: bool) -> Callable[..., nn.Module]:
    """The `build` of a unit with the option `per_channel`: one set per channel, or one for the layer."""

    def build(channels: int | None, channel_dim: int = 1, per_channel: bool = per_channel, **options: Any) -> nn.Module:
        check(unit.__name__, {"per_channel": Flag()}, {"per_channel": per_channel})
        return unit(channels if per_channel else None, channel_dim, **options)

    return build


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements of a tensor of this shape."""
    return math.prod(shape)


def widened(x: Tensor) -> Tensor:
    """Return x in the type that formulas compute in: float32 for the half types, else its own."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def samples(x: Tensor, dim: int, features: int) -> int:
    """Return how many samples a gate sees: the length of axis 0, one if its channels are there, a vector's values."""
    if x.dim() < 2:
        return x.numel() // features
    return 1 if features > 1 and dim % x.dim() == 0 else x.shape[0]


def pooled_mean(x: Tensor, dim: int, features: int) -> Tensor:
    """Mean of each sample over all axes but `dim`, (N, C); over that too if `features` is 1, (N, 1)."""
    if x.dim() < 2:
        return x.reshape(samples(x, dim, features), features)
    if features == 1:
        return x.flatten(1).mean(1, keepdim=True)
    axes = [axis for axis in range(1, x.dim()) if axis != dim % x.dim()]
    return (x.mean(axes) if axes else x).reshape(-1, features)


def affine(weight: Tensor, bias: Tensor, m: Tensor) -> Tensor:
    """Compute m @ weight.T + bias in the type of m, also under autocast."""
    weight, bias = weight.to(m.dtype), bias.to(m.dtype)
    if not m.is_meta and torch.is_autocast_enabled(m.device.type):
        with torch.autocast(m.device.type, enabled=False):
            return torch.addmm(bias, m, weight.t())
    return torch.addmm(bias, m, weight.t())


def per_sample(values: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """View (N, C) or (N, 1) values so that they broadcast over x with channels on `channel_dim`."""
    if x.dim() < 2:
        return values.reshape(x.shape if values.numel() == x.numel() else ())
    shape = [1] * x.dim()
    shape[0] = values.shape[0]
    if values.shape[1] > 1:
        shape[channel_dim] = values.shape[1]
    return values.reshape(shape)
