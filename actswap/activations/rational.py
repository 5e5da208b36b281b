"""What the Padé units share: coefficients per channel, clamp to a range with linear tails, Horner's rule."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from actswap.activations.base import Activation, StartContext, per_channel
from actswap.activations.bounded import refuse_capped
from actswap.activations.fitted import fit_rational
from actswap.errors import StartError, UsageError
from actswap.fit.histogram import Histogram
from actswap.fit.rational import PadeFit
from actswap.sites import Source


def columns(coefficients: Tensor, x: Tensor, dim: int) -> list[Tensor]:
    """Split (n,) or (C, n) coefficients into n tensors that broadcast along `dim` of x, in the type of x."""
    return [per_channel(c, x, dim).to(x.dtype) for c in coefficients.reshape(-1, coefficients.shape[-1]).unbind(-1)]


def rational_type(x: Tensor) -> Tensor:
    """Return x in the type rationals are evaluated in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def clamp_and_tails(x: Tensor, tails: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Split x into t = clamp(x, lo, hi) / s and the tails slope_lo min(x - lo, 0) + slope_hi max(x - hi, 0).

    Args:
        x: float32 or float64.
        tails: (5,) or (C, 5): s, lo, hi, slope_lo, slope_hi.
        dim: the channel axis of x.
    """
    scale, low, high, slope_low, slope_high = columns(tails, x, dim)
    below, above = torch.relu(low - x), torch.relu(x - high)
    # A flat tail stays flat at infinity, where 0 * inf would be NaN.
    below = torch.where((slope_low == 0) & torch.isinf(below), 0.0, below)
    above = torch.where((slope_high == 0) & torch.isinf(above), 0.0, above)
    return torch.clamp(x, low, high) / scale, slope_high * above - slope_low * below


def horner(coefficients: list[Tensor], t: Tensor) -> Tensor:
    """The polynomial with these coefficients, constant first."""
    y = coefficients[-1].expand_as(t) if len(coefficients) == 1 else coefficients[-1]
    for c in reversed(coefficients[:-1]):
        y = y * t + c
    return y


class RationalActivation(Activation):
    """What PAU and OPAU share: numerator, denominator and tails, one set per layer or per channel.

    Args:
        channels: width of the channel axis; None shares one set over the layer, as in the literature.
        channel_dim: index of the channel axis.
        degrees: of numerator and denominator, each at least 1.
        terms: number of denominator coefficients.
        names: parameter names of numerator and denominator.
    """

    tails: Tensor

    def __init__(
        self,
        channels: int | None,
        channel_dim: int,
        degrees: tuple[int, int],
        terms: int,
        names: tuple[str, str],
    ) -> None:
        super().__init__(channels, channel_dim)
        if min(degrees) < 1:
            raise UsageError(
                f"{type(self).__name__}(degrees={degrees})",
                why="both degrees must be at least 1",
                fix="degrees=(5, 4)",
            )
        self.degrees = (int(degrees[0]), int(degrees[1]))
        lead = () if channels is None else (channels,)
        for name, count in zip(names, (degrees[0] + 1, terms), strict=True):
            self.register_parameter(name, nn.Parameter(torch.zeros(*lead, count)))
        self.register_buffer("tails", torch.zeros(*lead, 5))

    def extra_repr(self) -> str:
        """Show the degrees."""
        return f"{super().extra_repr()}, degrees={self.degrees}"


@lru_cache(maxsize=64)
def default_fit(degrees: tuple[int, int], form: str, basis: str = "") -> PadeFit:
    """The unit that the literature begins with: LeakyReLU on [-3, 3]."""
    context = StartContext(histogram=Histogram.uniform(-3.0, 3.0))
    return fit_rational(Source.of("leaky_relu", slope=0.01), context, degrees, form, basis)[0]


def real_roots(powers: Tensor, low: float, high: float) -> tuple[float, ...]:
    """Real roots in [low, high] of the polynomial with these coefficients, constant first, increasing."""
    roots = np.roots(powers.detach().double().cpu().numpy()[::-1])
    real = roots[np.abs(roots.imag) <= 1e-6 * (1.0 + np.abs(roots))].real
    return tuple(float(r) for r in np.sort(real) if low <= r <= high)


def rational_fits(source: Source, context: StartContext, target: str, form: str, basis: str = "") -> list[PadeFit]:
    """One fit per distinct channel of the source; degrees and sharing come from the context's options.

    Raises:
        StartError: the source has a cap, or differs by channel where the unit is shared by the layer.
    """
    refuse_capped(source, target)
    degrees = tuple(context.options.get("degrees", (5, 4)))
    fits = fit_rational(source, context, (int(degrees[0]), int(degrees[1])), form, basis)
    if len(set(fits)) > 1 and not context.options.get("per_channel", False):
        raise StartError(
            f"{target} has no start for {source}",
            why="the source differs by channel, and the unit is shared by the layer",
            fix="option per_channel=True",
        )
    return fits if len(set(fits)) > 1 else fits[:1]
