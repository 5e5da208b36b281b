"""ACON-FReLU: the smooth maximum of x and a depthwise convolution of it (Ma et al. 2021, Table 1; TFNet)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from actswap.activations.acon_start import Member, acon_lines, acon_promise
from actswap.activations.base import Spec, StartContext, elements, per_channel, widened
from actswap.activations.options import Flag, Real, Rule, Whole, check
from actswap.activations.sharpness import BETA_RULES, SharpActivation, sharpness
from actswap.activations.smooth_maximum import SMOOTH_FLOPS, smooth_maximum_of_two
from actswap.errors import UsageError
from actswap.sites import Number, Source, Start

_CONV: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class AconFReLU(SharpActivation):
    """The smooth maximum of x1 = x and x2 = dwconv(x): (x1 - x2) sigmoid(beta (x1 - x2)) + x2.

    The kernel begins with its centre at `slope` and zero around it. TFNet has beta fixed at 1 and a BatchNorm
    on x2, and another on the output, which is left to the network.

    Args:
        channels: width of the channel axis, needed.
        channel_dim: index of the channel axis.
        kernel_size: odd width of the depthwise kernel.
        spatial: number of position axes, 1, 2 or 3; axes that an input lacks (a linear layer's rows, tokens) count
            as axes of length 1.
        bn: BatchNorm on x2.
        beta: sharpness at first, or `log` or `raw`, which stand for beta_as with sharpness 1.
        trainable: whether beta is trained.
        slope: centre of the kernel at first.
        beta_as: what is trained: `log` beta, or beta itself (`raw`), which may pass through 0.

    Raises:
        UsageError: no channel count, an even kernel, or another number of position axes.

    >>> AconFReLU(channels=8, kernel_size=3)(torch.zeros(2, 8, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    name = "acon_frelu"

    def __init__(
        self,
        channels: int | None,
        channel_dim: int = 1,
        kernel_size: int = 3,
        spatial: int = 2,
        bn: bool = False,
        beta: float | str = 1.0,
        trainable: bool = True,
        slope: float = 0.0,
        beta_as: str = "log",
    ) -> None:
        if channels is None:
            raise UsageError("AconFReLU(channels=None)", why="a depthwise convolution needs a channel count")
        given = {"kernel_size": kernel_size, "spatial": spatial, "bn": bn, "slope": slope}
        check("AconFReLU", _RULES, given)
        if kernel_size % 2 == 0:
            raise UsageError(
                f"AconFReLU(kernel_size={kernel_size}, spatial={spatial})",
                why="the kernel must be odd, so that it has a centre",
                fix="AconFReLU(channels, kernel_size=3, spatial=2)",
            )
        super().__init__(channels, channel_dim, beta, trainable, beta_as)
        self.spatial, self.kernel_size = spatial, kernel_size
        self.weight = nn.Parameter(torch.zeros(channels, 1, *(kernel_size,) * spatial))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.bn = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[spatial - 1](channels) if bn else None
        self.load_start({"slope": slope})

    @torch.no_grad()
    def load_start(self, params: Mapping[str, Number]) -> None:
        """Write start values; `slope` sets the centres of the kernels, per channel or all."""
        rest = dict(params)
        slope = rest.pop("slope", None)
        if slope is not None:
            self.weight.zero_()
            self.weight.flatten(1)[:, self.weight[0].numel() // 2] = torch.tensor(slope, dtype=self.weight.dtype)
        super().load_start(rest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the smooth maximum of x and its convolution."""
        alone = self.channel_dim % x.dim() == 0  # one sample without a batch axis
        first = x[None] if alone else x.movedim(self.channel_dim, 1)
        missing = self.spatial + 2 - first.dim()
        if missing < 0:
            raise UsageError(
                f"AconFReLU got an input of shape {tuple(x.shape)}",
                why=f"it convolves over {self.spatial} axes, and this has {first.dim() - 2}",
                fix=f"AconFReLU(channels, spatial={first.dim() - 2}), or --option spatial={first.dim() - 2}",
            )
        shape = first.shape
        first = first.reshape(shape + (1,) * missing)
        second = _CONV[self.spatial](first, self.weight, self.bias, padding=self.kernel_size // 2, groups=self.width)
        if self.bn is not None:
            second = self.bn(second)
        t = widened(first)
        beta = per_channel(self.beta, t, 1).to(t.dtype)
        y = smooth_maximum_of_two(t, second.to(t.dtype), beta).to(x.dtype).reshape(shape)
        return y[0] if alone else y.movedim(1, self.channel_dim)


def _start(source: Source, context: StartContext) -> Start:
    """x2 = p2 x by the centre of the kernel."""
    _, p2, beta, start = acon_lines(source, context, _MEMBER)
    return replace(start, params={"slope": p2, "bias": 0.0, **sharpness(beta)})


def _flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    """The smooth maximum, and a multiply-add per tap of the kernel and element."""
    assert isinstance(module, AconFReLU)
    return (SMOOTH_FLOPS + module.weight[0].numel()) * elements(shape)


_RULES: Mapping[str, Rule] = {
    **BETA_RULES,
    "kernel_size": Whole(1, 99),
    "spatial": Whole(1, 3),
    "bn": Flag(),
    "slope": Real(),
}
_MEMBER = Member("acon_frelu", "p2")
SPEC = Spec(
    name="acon_frelu",
    title="smooth maximum of x and its depthwise convolution",
    paper="Ma et al. 2021, Activate or Not, Table 1",
    build=AconFReLU,
    promise=lambda source: acon_promise(source, _MEMBER),
    start=_start,
    options={
        "kernel_size": 3,
        "spatial": 2,
        "bn": False,
        "beta": 1.0,
        "beta_as": "log",
        "trainable": True,
        "slope": 0.0,
    },
    no_decay=("log_beta", "raw_beta", "bias"),
    rules=_RULES,
    flops=_flops,
    per_layer=False,
)
