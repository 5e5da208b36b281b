"""What the Padé units share: coefficients and the coordinates they train in, range and tails, Horner's rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from actswap.activations.base import Activation, per_channel
from actswap.activations.options import Flag, OneOf, Pair, Rule
from actswap.errors import UsageError
from actswap.fit.coordinates import Unit, assumed, coordinates
from actswap.fit.points import Array
from actswap.ops.coordinates import coefficients
from actswap.ops.decompositions import is_finite_assumed
from actswap.sites import Number

TAILS = ("linear", "trained", "none")
RULES: Mapping[str, Rule] = {"degrees": Pair(), "tails": OneOf(TAILS), "per_channel": Flag(optional=True)}
# Keys of numerator and denominator in checkpoints: PAU's and OPAU's before the coordinates, rational_activations,
# ml-research/pau.
_RAW_KEYS = (("a", "b"), ("c", "d"), ("numerator", "denominator"), ("weight_numerator", "weight_denominator"))
_PUBLISHED = (1.0, -math.inf, math.inf, 0.0, 0.0)  # tails of the published form
TINY = 1e-20  # stands for a denominator coefficient of 0, whose absolute value would have no gradient


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
    if not is_finite_assumed():  # A flat tail stays flat at infinity, where 0 * inf would be NaN.
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
    """What PAU and OPAU share: coefficients, the coordinates in which they train, and tails.

    The trained parameter is `coordinates` u, 0 at the start. The coefficients of the paper are
        v = (numerator, denominator) = centre + mix asinh(u / radius)
    (see `actswap.fit.coordinates`); `coefficients()` returns them. Checkpoints that hold the coefficients
    themselves load: these become the centre.

    Args:
        channels: width of the channel axis; None shares one set over the layer, as in the literature.
        channel_dim: index of the channel axis.
        degrees: of numerator and denominator, each at least 1.
        terms: number of denominator coefficients.
        names: the paper's names of numerator and denominator.
        tails: `linear` (clamp to the range, fixed straight lines beyond it), `trained` (the slopes of these lines
            are parameters) or `none` (the published form for all x).
    """

    tails: Tensor
    centre: Tensor
    mix: Tensor
    radius: Tensor
    coordinates: Tensor
    slopes: Tensor

    def __init__(
        self,
        channels: int | None,
        channel_dim: int,
        degrees: tuple[int, int],
        terms: int,
        names: tuple[str, str],
        tails: str,
    ) -> None:
        super().__init__(channels, channel_dim)
        self.degrees = (int(degrees[0]), int(degrees[1]))
        self.names, self.terms, self.tails_mode = names, int(terms), tails
        self.site_channels: int | None = None  # a source that differs by channel may widen the unit to them
        self._allocate(channels)

    @property
    def basis_and_form(self) -> tuple[str, str]:
        """The basis of the polynomials, and the form of the denominator, as `fit.coordinates.Unit` names them."""
        raise NotImplementedError

    def _allocate(self, channels: int | None) -> None:
        """Make parameters and buffers: one set, or one per channel."""
        lead, count = () if channels is None else (channels,), self.degrees[0] + 1 + self.terms
        self.channels = channels
        self.coordinates = nn.Parameter(torch.zeros(*lead, count))
        self.register_buffer("centre", torch.zeros(*lead, count))
        self.register_buffer("mix", torch.zeros(*lead, count, count))
        self.register_buffer("radius", torch.ones(*lead, count))
        self.register_buffer("tails", torch.tensor(_PUBLISHED).repeat(*lead, 1) if lead else torch.tensor(_PUBLISHED))
        if self.tails_mode == "trained":
            self.slopes = nn.Parameter(torch.zeros(*lead, 2))

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """The paper's numerator and denominator, (n,) or (C, n) each; gradients reach the coordinates."""
        return coefficients(self.coordinates, self.radius, self.mix, self.centre, self.degrees[0] + 1)

    def current_tails(self) -> Tensor:
        """s, lo, hi and the two slopes, (5,) or (C, 5)."""
        if self.tails_mode != "trained":
            return self.tails
        return torch.cat([self.tails[..., :3], self.slopes], -1)

    def evaluate(
        self, function: Callable[..., Tensor], fast_path: Callable[..., Tensor | None], x: Tensor, *options: Any
    ) -> Tensor:
        """Compute an operator at the coefficients and tails of now.

        Args:
            function: the operator, `function(x, numerator, denominator, tails, *options)`.
            fast_path: the same by coordinates, None if a call is not plain.
            x: input of any shape.
            options: what follows the tails.
        """
        trained = self.tails_mode == "trained"
        if not is_dynamo_compiling():
            kept = self._buffers  # a lookup of each attribute would take as long as the rational function
            tails = self.current_tails().detach() if trained else kept["tails"]
            u, radius, mix, centre = self.coordinates, kept["radius"], kept["mix"], kept["centre"]
            y = fast_path(x, u, radius, mix, centre, tails, self.degrees[0] + 1, *options)
            if y is not None:
                return self.with_trained_slopes(y, x) if trained else y
        return self.with_trained_slopes(function(x, *self.coefficients(), self.current_tails().detach(), *options), x)

    def with_trained_slopes(self, y: Tensor, x: Tensor) -> Tensor:
        """Give y, computed with the slopes as constants, their gradient; its value stays what it is.

        The kernels give no gradient of the tails. This needs the distance beyond the range alone, not P/Q again.
        """
        if self.tails_mode != "trained" or not (torch.is_grad_enabled() and self.slopes.requires_grad):
            return y
        v = rational_type(x)
        low, high, below, above = columns(torch.cat([self.tails[..., 1:3], self.slopes], -1), v, self.channel_dim)
        limit = torch.finfo(v.dtype).max  # 0 times an infinite distance would be NaN
        off = torch.relu(v - high).clamp(max=limit) * (above - above.detach())
        return y + (off - torch.relu(low - v).clamp(max=limit) * (below - below.detach())).to(y.dtype)

    @torch.no_grad()
    def condition(self, x: Array | None = None, w: Array | None = None) -> None:
        """Find coordinates that train well from here; the function stays what it is.

        Args:
            x: (N,) inputs of this site, e.g. the centroids of its histogram; assumed from the scale if None.
            w: (N,) their weights, of sum 1.
        """
        v = torch.cat(self.coefficients(), -1)
        self.centre.copy_(v)
        self.coordinates.zero_()
        if not v.is_meta:
            mix, radius = self._mixing(v, self.tails, x, w)
            self.mix.copy_(mix)
            self.radius.copy_(radius)

    def _mixing(
        self, v: Tensor, tails: Tensor, x: Array | None = None, w: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """The buffers mix and radius for coefficients v; channels with the same coefficients share the work."""
        known: dict[tuple[float, ...], tuple[Array, Array]] = {}
        rows = torch.cat([v.double().cpu(), tails[..., :3].double().cpu()], -1).reshape(-1, v.shape[-1] + 3).tolist()
        for row in map(tuple, rows):
            if row not in known:
                known[row] = mixing(self.basis_and_form, self.degrees[0] + 1, row, x, w)
        mix, radius = (torch.from_numpy(np.stack([known[tuple(row)][part] for row in rows])) for part in (0, 1))
        return mix.reshape(self.mix.shape), radius.reshape(self.radius.shape)

    @torch.no_grad()
    def load_start(self, params: Mapping[str, Number]) -> None:
        """Write start values: numerator and denominator by their names in the paper, tails, mix and radius."""
        rest = dict(params)
        given = [rest.pop(name, None) for name in self.names]
        sets = len(given[0]) // (self.degrees[0] + 1) if isinstance(given[0], tuple) else 1
        if self.channels is None and sets > 1 and sets == self.site_channels:
            self._allocate(sets)
        parts = [
            self._rows(name, now.new_tensor(value, dtype=torch.float64), now.shape) if isinstance(value, tuple)
            else now if value is None else torch.full_like(now, value)
            for name, value, now in zip(self.names, given, self.coefficients(), strict=True)
        ]  # fmt: skip
        kinds = rest.pop("kinds", None)  # of each channel: which of the mixes and radii is its own
        for name in ("mix", "radius", "tails"):
            if isinstance(value := rest.pop(name, None), tuple):
                buffer, numbers = getattr(self, name), torch.tensor(value, dtype=torch.float64)
                if isinstance(kinds, tuple) and name != "tails":
                    numbers = numbers.reshape(-1, *buffer.shape[1:])[torch.tensor(kinds).long()]
                buffer.copy_(self._rows(name, numbers, buffer.shape))
        parts[1] = torch.where(parts[1] == 0.0, TINY, parts[1])
        self.centre.copy_(torch.cat(parts, -1))
        self.coordinates.zero_()
        super().load_start(rest)
        if self.tails_mode == "none":
            self.tails[..., 1:] = self.tails.new_tensor(_PUBLISHED[1:])
        elif self.tails_mode == "trained":
            self.slopes.copy_(self.tails[..., 3:])
        if "mix" not in params:
            self.condition()

    def adapt_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Turn coefficients, as the papers' code and earlier versions store them, into centre and coordinates."""
        for keys in _RAW_KEYS:
            if not all(prefix + key in state_dict for key in keys):
                continue
            shapes = [(*self.centre.shape[:-1], size) for size in (self.degrees[0] + 1, self.terms)]
            parts = [self._rows(k, state_dict.pop(prefix + k), shape) for k, shape in zip(keys, shapes, strict=True)]
            parts[1] = torch.where(parts[1] == 0.0, parts[1].new_tensor(TINY), parts[1])
            v = torch.cat(parts, -1).detach()
            tails = state_dict.setdefault(prefix + "tails", v.new_tensor(_PUBLISHED).expand(self.tails.shape).clone())
            if self.tails_mode == "trained":
                state_dict.setdefault(prefix + "slopes", tails.reshape(self.tails.shape)[..., 3:].clone())
            mix, radius = self._mixing(v, tails.reshape(self.tails.shape))
            state_dict.update(
                {
                    prefix + "centre": v,
                    prefix + "coordinates": torch.zeros_like(v),
                    prefix + "mix": mix.to(v),
                    prefix + "radius": radius.to(v),
                }
            )
            return

    def _rows(self, name: str, value: Tensor, shape: Sequence[int]) -> Tensor:
        """Reshape values to a tensor of one set per channel; one set alone serves all channels."""
        one = math.prod(shape) // self.width
        if value.numel() == math.prod(shape):
            return value.reshape(tuple(shape))
        if value.numel() == one:
            return value.reshape(tuple(shape[1:])).expand(tuple(shape))
        raise UsageError(
            f"{type(self).__name__}: {value.numel()} values for {name}",
            why=f"it has {one}" + (f" for each of {self.channels} channels" if self.channels else ""),
            fix=f"build it with channels={value.numel() // one}" if value.numel() % one == 0 else "",
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read modules that were pickled before the coordinates."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for names in (("a", "b"), ("c", "d")):
            if all(name in self._parameters for name in names):
                raw: dict[str, Any] = {name: self._parameters.pop(name) for name in names}
                raw["tails"] = self._buffers.pop("tails")
                self.names, self.terms, self.tails_mode, self.site_channels = (
                    names,
                    raw[names[1]].shape[-1],
                    "linear",
                    None,
                )
                self._allocate(self.channels)
                self.adapt_state(raw, "")
                for name, value in raw.items():
                    getattr(self, name).data = value

    def extra_repr(self) -> str:
        """Show the degrees and the tails."""
        return f"{super().extra_repr()}, degrees={self.degrees}, tails={self.tails_mode!r}"


def mixing(
    basis_and_form: tuple[str, str], top: int, row: tuple[float, ...], x: Array | None = None, w: Array | None = None
) -> tuple[Array, Array]:
    """Return mix (k, k) and radius (k,) for one set: coefficients, s, lo and hi in a row, `top` of them numerator's."""
    if x is None or w is None:
        return _assumed_mixing(basis_and_form, top, row)
    return coordinates(_unit(basis_and_form, top, row), x, w)


@lru_cache(maxsize=256)
def _assumed_mixing(basis_and_form: tuple[str, str], top: int, row: tuple[float, ...]) -> tuple[Array, Array]:
    unit = _unit(basis_and_form, top, row)
    return coordinates(unit, *assumed(unit))


def _unit(basis_and_form: tuple[str, str], top: int, row: tuple[float, ...]) -> Unit:
    # The modules hold float32: where P and Q are nearly redundant, rounding changes which directions are faint.
    *v, scale, low, high = np.array(row, dtype=np.float32).astype(np.float64).tolist()
    return Unit(*basis_and_form, np.array(v[:top]), np.array(v[top:]), scale, low, high)


def with_own_channels(unit: Any, per_channel: bool | None = None) -> Any:
    """The `build` of a Padé unit: one set for the layer, one per channel, or (None) as the source asks for."""

    def build(
        channels: int | None, channel_dim: int = 1, per_channel: bool | None = per_channel, **options: Any
    ) -> RationalActivation:
        module: RationalActivation = unit(channels if per_channel else None, channel_dim, **options)
        module.site_channels = channels if per_channel is None else None
        return module

    return build


def real_roots(powers: Tensor, low: float, high: float) -> tuple[float, ...]:
    """Real roots in [low, high] of the polynomial with these coefficients, constant first, increasing."""
    roots = np.roots(powers.detach().double().cpu().numpy()[::-1])
    real = roots[np.abs(roots.imag) <= 1e-6 * (1.0 + np.abs(roots))].real
    return tuple(float(r) for r in np.sort(real) if low <= r <= high)
