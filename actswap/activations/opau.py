"""OPAU: orthogonal Padé activation units (Biswas et al. 2021, eq. 6 and its safe form)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from actswap import ops
from actswap.activations.base import Spec, StartContext, elements
from actswap.activations.fitted import range_note, tails_of
from actswap.activations.options import Flag, OneOf, Rule, check
from actswap.activations.rational import (
    RULES,
    RationalActivation,
    clamp_and_tails,
    columns,
    rational_type,
    real_roots,
    with_own_channels,
)
from actswap.activations.rational_start import default_fit, rational_fits, start_params
from actswap.errors import UsageError
from actswap.fit.basis import to_monomial
from actswap.fit.histogram import Histogram
from actswap.fit.rational import PadeFit
from actswap.ops.coordinates import by_coordinates
from actswap.sites import Number, Source, Start

# Three-term recurrences: (first polynomial, step), step(n, t, f_n, f_{n-1}) = f_{n+1}; f_0 = 1.
_Step = Callable[[int, Tensor, Tensor, Tensor], Tensor]
BASES: Mapping[str, tuple[Callable[[Tensor], Tensor], _Step]] = {
    "chebyshev_t": (lambda t: t, lambda n, t, f, g: 2 * t * f - g),
    "chebyshev_u": (lambda t: 2 * t, lambda n, t, f, g: 2 * t * f - g),
    "legendre": (lambda t: t, lambda n, t, f, g: ((2 * n + 1) * t * f - n * g) / (n + 1)),
    "laguerre": (lambda t: 1 - t, lambda n, t, f, g: ((2 * n + 1 - t) * f - n * g) / (n + 1)),
    "hermite_prob": (lambda t: t, lambda n, t, f, g: t * f - n * g),
    "hermite_phys": (lambda t: 2 * t, lambda n, t, f, g: 2 * t * f - 2 * n * g),
}


def polynomials(basis: str, t: Tensor, degree: int) -> list[Tensor]:
    """The polynomials f_0 .. f_degree of a basis at t."""
    first, step = BASES[basis]
    values = [t.new_ones(()).expand_as(t)]
    if degree > 0:
        values.append(first(t))
    for n in range(1, degree):
        values.append(step(n, t, values[n], values[n - 1]))
    return values


def opau_formula(x: Tensor, c: Tensor, d: Tensor, tails: Tensor, basis: str, safe: bool, dim: int) -> Tensor:
    """sum_i c_i f_i(t) / Q(t) on the range, straight lines beyond it: t = clamp(x, lo, hi) / s.

    Q = 1 + sum_{j>=1} |d_j| |f_j(t)| if safe, else 1 + sum_{j>=1} d_j f_j(t).

    Args:
        x: input of any shape.
        c: (k + 1,) or (C, k + 1).
        d: (l,) or (C, l).
        tails: (5,) or (C, 5): scale s, lo, hi, slope below lo, slope above hi.
        basis: `chebyshev_t`, `chebyshev_u`, `legendre`, `laguerre`, `hermite_prob` or `hermite_phys`.
        safe: take absolute values in the denominator, so that it has no zero.
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 whatever the type of x, except float64.

    >>> x, tails = torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([1.0, -3.0, 3.0, 0.0, 0.0])
    >>> opau_formula(x, torch.tensor([0.0, 1.0]), torch.tensor([1.0]), tails, "chebyshev_t", True, 1)  # x / (1 + |x|)
    tensor([[-0.5000,  0.0000,  0.6667]])
    """
    if basis not in BASES:
        raise UsageError(f"opau(basis={basis!r})", why=f"known: {', '.join(BASES)}", fix='basis="chebyshev_t"')
    v = rational_type(x)
    t, tail = clamp_and_tails(v, tails, dim)
    top, bottom = columns(c, v, dim), columns(d, v, dim)
    f = polynomials(basis, t, max(len(top) - 1, len(bottom)))
    p, q = top[0] * f[0], f[0]
    for weight, value in zip(top[1:], f[1:], strict=False):
        p = p + weight * value
    for weight, value in zip(bottom, f[1:], strict=False):
        q = q + (weight.abs() * value.abs() if safe else weight * value)
    return (p / q + tail).to(x.dtype)


opau = ops.define(
    "opau(Tensor x, Tensor c, Tensor d, Tensor tails, str basis, bool safe, int dim) -> Tensor",
    opau_formula,
)
_by_coordinates = by_coordinates("opau")


class OPAU(RationalActivation):
    """Orthogonal Padé activation unit; begins as LeakyReLU on [-3, 3].

    Args:
        channels: width of the channel axis; None shares one set over the layer.
        channel_dim: index of the channel axis.
        degrees: of numerator and denominator.
        basis: `chebyshev_t`, `chebyshev_u`, `legendre`, `laguerre`, `hermite_prob` or `hermite_phys`.
        safe: absolute values in the denominator, which then has no zero.
        tails: `linear` (straight lines beyond the range), `trained` (their slopes train) or `none` (published form).

    Raises:
        UsageError: an option has a value that it cannot have.

    >>> unit = OPAU(basis="legendre", tails="none")
    >>> [tuple(part.shape) for part in unit.coefficients()]
    [(6,), (4,)]
    """

    name = "opau"

    def __init__(
        self,
        channels: int | None = None,
        channel_dim: int = 1,
        degrees: tuple[int, int] = (5, 4),
        basis: str = "chebyshev_t",
        safe: bool = True,
        tails: str = "linear",
    ) -> None:
        check(type(self).__name__, _RULES, {"degrees": degrees, "basis": basis, "safe": safe, "tails": tails})
        super().__init__(channels, channel_dim, degrees, degrees[1], ("c", "d"), tails)
        self.basis, self.safe = basis, safe
        self.load_start(_parameters([default_fit(self.degrees, _form(safe), basis)]))

    @property
    def basis_and_form(self) -> tuple[str, str]:
        """The orthogonal basis, and `A` if safe, else `unsafe`."""
        return self.basis, _form(self.safe)

    @property
    def c(self) -> Tensor:
        """Numerator: (k + 1,) or (C, k + 1)."""
        return self.coefficients()[0]

    @property
    def d(self) -> Tensor:
        """Denominator from d_1 on: (l,) or (C, l)."""
        return self.coefficients()[1]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the rational function on the range and straight lines beyond it."""
        return self.evaluate(opau, _by_coordinates, x, self.basis, self.safe, self.channel_dim)

    def poles(self) -> list[tuple[float, ...]]:
        """The zeros of the denominator inside the range, by channel; only the unsafe form can have any."""
        rows = zip(self.d.reshape(-1, self.d.shape[-1]), self.tails.reshape(-1, 5).tolist(), strict=True)
        if self.safe:
            return [() for _ in rows]
        found = []
        for d, (s, low, high, _, _) in rows:
            powers = to_monomial(self.basis, torch.cat([d.new_ones(1), d]).detach().double().cpu().numpy())
            found.append(tuple(t * s for t in real_roots(torch.from_numpy(powers), low / s, high / s)))
        return found

    def extra_repr(self) -> str:
        """Show the basis."""
        return f"{super().extra_repr()}, basis={self.basis!r}, safe={self.safe}"


class HP1(OPAU):
    """HP-1: the safe unit in the probabilist's Hermite polynomials. Arguments as OPAU, without the basis.

    Which of the two Hermite bases the paper calls HP-1 was not found in any text at hand: the mapping is an
    assumption.

    >>> unit = HP1(channels=8)
    >>> unit.basis, unit.c.shape
    ('hermite_prob', torch.Size([8, 6]))
    """

    name = "hp1"
    _basis = "hermite_prob"

    def __init__(
        self,
        channels: int | None = None,
        channel_dim: int = 1,
        degrees: tuple[int, int] = (5, 4),
        tails: str = "linear",
    ) -> None:
        super().__init__(channels, channel_dim, degrees, self._basis, tails=tails)


class HP2(HP1):
    """HP-2: the safe unit in the physicist's Hermite polynomials. Arguments as HP1.

    >>> HP2().basis
    'hermite_phys'
    """

    name = "hp2"
    _basis = "hermite_phys"


_RULES: Mapping[str, Rule] = {**RULES, "basis": OneOf(tuple(BASES)), "safe": Flag()}


def _form(safe: bool) -> str:
    return "A" if safe else "unsafe"


def _parameters(fits: list[PadeFit], context: StartContext | None = None) -> dict[str, Number]:
    """Fits as parameters of a unit, with coordinates for a context."""
    context = context or StartContext(histogram=Histogram.uniform(fits[0].lo, fits[0].hi))
    rows = [(f.numerator, f.denominator, tails_of(f)) for f in fits]
    return start_params(("c", "d"), (fits[0].basis, fits[0].form), rows, context)


def _spec(name: str, title: str, unit: type[OPAU], default: str, **extra: object) -> Spec:
    def start(source: Source, context: StartContext) -> Start:
        safe = bool(context.options.get("safe", True))
        fits = rational_fits(source, context, name, _form(safe), context.options.get("basis", default))
        return Start(
            "fit",
            _parameters(fits, context),
            error=max(f.max_error for f in fits),
            rms=max(f.rms_error for f in fits),
            note=range_note(context),
        )

    return Spec(
        name=name,
        title=title,
        paper="Biswas et al. 2021, Orthogonal-Padé Activation Functions, eq. 6",
        build=with_own_channels(unit),
        promise=lambda source: "fit",
        start=start,
        options={"degrees": (5, 4), "tails": "linear", "per_channel": None, **extra},
        no_decay=("coordinates", "slopes"),
        flops=_flops,
        rules=_RULES,
    )


def _flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    assert isinstance(module, OPAU)
    return opau_flops(shape, module.degrees)


def opau_flops(shape: tuple[int, ...], degrees: tuple[int, int]) -> int:
    """Two operations per step of the recurrence, a multiply-add per coefficient, ten for the rest; per element."""
    return (2 * max(degrees) + sum(degrees) + 10) * elements(shape)


SPEC = _spec(
    "opau",
    "orthogonal Padé unit: a trained rational function in an orthogonal basis",
    OPAU,
    "chebyshev_t",
    basis="chebyshev_t",
    safe=True,
)
SPEC_HP1 = _spec("hp1", "safe Padé unit in the probabilist's Hermite basis", HP1, "hermite_prob")
SPEC_HP2 = _spec("hp2", "safe Padé unit in the physicist's Hermite basis", HP2, "hermite_phys")
