"""DY-ReLU A and B: the maximum of K lines with coefficients computed from the input (Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from actswap import ops
from actswap.activations.base import (
    Activation,
    Spec,
    affine,
    elements,
    per_sample,
    pooled_mean,
    widened,
)
from actswap.activations.dy_relu_start import dy_relu_promise, dy_relu_start
from actswap.activations.options import Numbers, OneOf, Real, Rule, Whole, check
from actswap.errors import UsageError
from actswap.sites import Number


def dy_relu_formula(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    init: Tensor,
    lambdas: Tensor,
    dim: int,
) -> Tensor:
    """DY-ReLU: y = max_k (a_k x + b_k), (a, b) = init + lambdas (2 sigmoid(w2 relu(w1 m + b1) + b2) - 1).

    The 2K coefficients are ordered a_1 .. a_K, b_1 .. b_K; row j C + c of w2 is coefficient j of channel c.

    Args:
        x: (N, ..., C, ...).
        w1: (H, C); (H, 1) pools over the channels too.
        b1: (H,).
        w2: (2K C, H), or (2K, H) if all channels share the coefficients (variant A).
        b2: (2K C,) or (2K,).
        init: the coefficients' centres, (2K, C) or (2K, 1).
        lambdas: the coefficients' ranges, (2K,).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 for the half types.

    >>> w1, b1, w2, b2 = torch.zeros(4, 3), torch.zeros(4), torch.zeros(12, 4), torch.zeros(12)
    >>> init = torch.tensor([1.0, 0.25, 0.0, 0.0]).reshape(4, 1).repeat(1, 3)  # max(x, x / 4)
    >>> dy_relu_formula(torch.tensor([[-1.0, 0.0, 2.0]]), w1, b1, w2, b2, init, torch.ones(4), 1)
    tensor([[-0.2500,  0.0000,  2.0000]])
    """
    t = widened(x)
    return max_of_lines(t, coefficients(t, w1, b1, w2, b2, init, lambdas, dim), dim).to(x.dtype)


def coefficients(
    t: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    init: Tensor,
    lambdas: Tensor,
    dim: int,
    hard: bool = False,
) -> Tensor:
    """The coefficients of each sample, (N, 2K, C) or (N, 2K, 1); `hard` takes the hard sigmoid."""
    hidden = torch.relu(affine(w1, b1, pooled_mean(t, dim, w1.shape[1])))
    z = affine(w2, b2, hidden)
    # 2 h(z) - 1, where the hard sigmoid h(z) is clamp((z + 3) / 6, 0, 1)
    theta = torch.clamp(z / 3, -1.0, 1.0) if hard else 2 * torch.sigmoid(z) - 1
    rows = lambdas.numel()
    residual = lambdas.to(t.dtype).reshape(rows, 1) * theta.reshape(z.shape[0], rows, z.shape[1] // rows)
    return init.to(t.dtype) + residual


def max_of_lines(t: Tensor, coef: Tensor, dim: int) -> Tensor:
    """The maximum of the K lines of each sample and channel; coef is (N, 2K, C or 1)."""
    count = coef.shape[1] // 2
    rows = [per_sample(row, t, dim) for row in coef.unbind(1)]
    slope, shift = rows[:count], rows[count:]
    y = slope[0] * t + shift[0]
    for k in range(1, count):
        y = torch.maximum(y, slope[k] * t + shift[k])
    return y


dy_relu = ops.define(
    "dy_relu(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor init, Tensor lambdas, int dim) -> Tensor",
    dy_relu_formula,
)


NORMALIZERS = ("sigmoid", "hard_sigmoid")


class DyReLU(Activation):
    """DY-ReLU with channel-wise (B) or shared (A) coefficients; begins as the lines of `init`.

    Checkpoints of both public implementations load: Islanna/DynamicReLU (rows c 2K + j) and
    microsoft/DynamicHead or mmdet (a1, b1, a2, b2, `normalizer="hard_sigmoid"`).

    Args:
        channels: width of the channel axis; None pools over all axes and shares the coefficients.
        channel_dim: index of the channel axis; axis 0 holds the samples.
        k: number of lines.
        reduction: the hidden width is channels // reduction, at least 4. The paper finds 8 the best trade.
        lambda_a: range of the slopes about their centres.
        lambda_b: range of the shifts about their centres.
        init: the centres a_1 .. a_K, b_1 .. b_K; None is 1, 0, ..., 0, which is ReLU.
        normalizer: `sigmoid`, the paper's, or `hard_sigmoid`, that of Microsoft's code.
        hidden: the hidden width; None derives it from `reduction`.

    >>> unit = DyReLU(channels=8)  # begins as ReLU
    >>> unit(torch.full((2, 8, 4, 4), -1.0)).abs().max().item(), unit.fc2.weight.shape
    (0.0, torch.Size([32, 4]))
    """

    shared = False
    init: Tensor
    lambdas: Tensor

    def __init__(
        self,
        channels: int | None,
        channel_dim: int = 1,
        k: int = 2,
        reduction: int = 8,
        lambda_a: float = 1.0,
        lambda_b: float = 0.5,
        init: Sequence[float] | None = None,
        normalizer: str = "sigmoid",
        hidden: int | None = None,
    ) -> None:
        super().__init__(channels, channel_dim)
        given = {"k": k, "reduction": reduction, "lambda_a": lambda_a, "lambda_b": lambda_b, "init": init}
        check(type(self).__name__, RULES, {**given, "normalizer": normalizer, "hidden": hidden})
        centres = [float(v) for v in init] if init is not None else [1.0] + [0.0] * (2 * k - 1)
        if k < 1 or len(centres) != 2 * k:
            raise UsageError(f"{type(self).__name__}(k={k}, init={init})", why="init needs 2 k values, k >= 1")
        self.k, self.normalizer = k, normalizer
        rows = 2 * k if self.shared else 2 * k * self.width
        self.fc1 = nn.Linear(self.width, hidden or max(self.width // reduction, 4))
        self.fc2 = nn.Linear(self.fc1.out_features, rows)
        # theta = 0 for every input, so that the unit begins as the lines of `init`.
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)
        centres_of_lines = torch.tensor(centres).reshape(2 * k, 1).repeat(1, 1 if self.shared else self.width)
        self.register_buffer("init", centres_of_lines)
        self.register_buffer("lambdas", torch.tensor([float(lambda_a)] * k + [float(lambda_b)] * k))

    @torch.no_grad()
    def load_start(self, params: Mapping[str, Number]) -> None:
        """Write start values; `init` may have one value per row, or one per row and channel."""
        rest = dict(params)
        init = rest.pop("init", None)
        if isinstance(init, tuple):
            rows = torch.tensor(init, dtype=torch.float64).reshape(2 * self.k, -1)
            self._widen(rows)
            if rows.shape[1] not in (1, self.width):
                raise UsageError(
                    f"{type(self).__name__}.load_start: {rows.shape[1]} channels for {self.width}",
                    fix=f"build it with channels={rows.shape[1]}",
                )
            self.init.copy_(rows)
        super().load_start(rest)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the maximum of the lines of this input."""
        if self.normalizer == "hard_sigmoid":
            t = widened(x)
            return max_of_lines(t, self._coefficients(t), self.channel_dim).to(x.dtype)
        return dy_relu(x, *self._tensors(), self.channel_dim)

    def _widen(self, rows: Tensor) -> None:
        """Give variant A centres by channel if a start or a file has them; its kernel serves (2K, 1) only."""
        if rows.shape[1] == self.width > self.init.shape[1]:
            self.init = self.init.repeat(1, self.width)

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        return (
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
            self.init,
            self.lambdas,
        )

    def _coefficients(self, t: Tensor) -> Tensor:
        return coefficients(t, *self._tensors(), self.channel_dim, hard=self.normalizer == "hard_sigmoid")

    def adapt_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Accept both public layouts; centres and ranges that the file lacks keep their values."""
        rows, centres = 2 * self.k, state_dict.pop(prefix + "init_v", None)
        if centres is not None:
            state_dict[prefix + "init"] = centres.reshape(rows, 1).repeat(1, self.init.shape[1])
            self._reorder(state_dict, prefix, lambda w: w.reshape(self.width, rows, -1).transpose(0, 1))
        for first, second in (("fc.0.", "fc.2."), ("conv1.conv.", "conv2.conv.")):
            if prefix + first + "weight" not in state_dict:
                continue
            for old, new in ((first, "fc1."), (second, "fc2.")):
                for kind in ("weight", "bias"):
                    state_dict[prefix + new + kind] = state_dict.pop(prefix + old + kind)
            # a1, b1, a2, b2, ... of C values each, to a1, a2, ..., b1, b2, ...
            self._reorder(state_dict, prefix, lambda w: w.reshape(self.k, 2, self.width, -1).transpose(0, 1))
            state_dict[prefix + "init"], state_dict[prefix + "lambdas"] = self.init, self.lambdas
        stored = state_dict.get(prefix + "init")
        if self.shared and stored is not None and stored.numel() == rows * self.width:
            # Earlier versions stored the centres of variant A once for each channel.
            grid = stored.reshape(rows, self.width)
            state_dict[prefix + "init"] = grid[:, :1].clone() if bool((grid == grid[:, :1]).all()) else grid
            self._widen(state_dict[prefix + "init"])

    def _reorder(self, state_dict: dict[str, Any], prefix: str, order: Any) -> None:
        if not self.shared:
            for key in (prefix + "fc2.weight", prefix + "fc2.bias"):
                state_dict[key] = order(state_dict[key]).reshape(state_dict[key].shape)

    def extra_repr(self) -> str:
        """Show the number of lines."""
        return f"{super().extra_repr()}, k={self.k}"


class DyReLUA(DyReLU):
    """DY-ReLU A: one set of lines per sample, shared by all channels and positions. Arguments as DyReLU.

    >>> DyReLUA(channels=8).fc2.weight.shape  # 2 K coefficients for all channels
    torch.Size([4, 4])
    """

    name = "dy_relu_a"
    shared = True


class DyReLUB(DyReLU):
    """DY-ReLU B: one set of lines per sample and channel. Arguments as DyReLU.

    >>> DyReLUB(channels=8).fc2.weight.shape  # 2 K coefficients for each channel
    torch.Size([32, 4])
    """

    name = "dy_relu_b"


def dy_relu_flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    """`lines_flops` of a module."""
    unit = cast(DyReLU, module)
    weights = sum(p.numel() for layer in (unit.fc1, unit.fc2) for p in layer.parameters())
    return lines_flops(shape, weights, unit.fc2.out_features, unit.k)


def lines_flops(shape: tuple[int, ...], weights: int, outputs: int, lines: int) -> int:
    """A multiply-add and a maximum per line, and the mean, per element; per sample a multiply-add per weight.

    Each of the `outputs` coefficients takes eight operations more: the normaliser, its scale and its offset.
    """
    return (2 * lines + 1) * elements(shape) + shape[0] * (weights + 8 * outputs)


RULES: Mapping[str, Rule] = {
    "k": Whole(1, 64),
    "reduction": Whole(),
    "lambda_a": Real(),
    "lambda_b": Real(),
    "init": Numbers(),
    "normalizer": OneOf(NORMALIZERS),
    "hidden": Whole(optional=True),
}
OPTIONS = {
    "k": 2,
    "reduction": 8,
    "lambda_a": 1.0,
    "lambda_b": 0.5,
    "init": None,
    "normalizer": "sigmoid",
    "hidden": None,
}
SPEC_A = Spec(
    name="dy_relu_a",
    title="maximum of K lines computed from the input, shared by all channels",
    paper="Chen et al. 2020, Dynamic ReLU, variant A",
    build=DyReLUA,
    promise=dy_relu_promise,
    start=lambda source, context: dy_relu_start(source, context, "dy_relu_a"),
    options=OPTIONS,
    rules=RULES,
    flops=dy_relu_flops,
)
SPEC_B = Spec(
    name="dy_relu_b",
    title="maximum of K lines computed from the input, per channel",
    paper="Chen et al. 2020, Dynamic ReLU, variant B",
    build=DyReLUB,
    promise=dy_relu_promise,
    start=lambda source, context: dy_relu_start(source, context, "dy_relu_b"),
    options=OPTIONS,
    rules=RULES,
    flops=dy_relu_flops,
)
