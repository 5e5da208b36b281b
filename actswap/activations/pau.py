"""PAU: Padé activation units, rational functions with trained coefficients (Molina et al. 2020, eq. 2-3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from actswap import ops
from actswap.activations.base import Spec, StartContext, elements
from actswap.activations.fitted import range_note, tails_of
from actswap.activations.options import OneOf, Real, Rule, check
from actswap.activations.rational import (
    RULES,
    RationalActivation,
    clamp_and_tails,
    columns,
    horner,
    rational_type,
    real_roots,
    with_own_channels,
)
from actswap.activations.rational_start import default_fit, rational_fits, start_params
from actswap.errors import UsageError
from actswap.fit.histogram import Histogram
from actswap.fit.rational import PadeFit
from actswap.ops.coordinates import by_coordinates
from actswap.sites import Number, Source, Start

FORMS = ("A", "B", "unsafe", "C", "D")
# The form that is fitted for each form; C is made from the unsafe one.
_FITTED = {"best": "best", "A": "A", "B": "B", "unsafe": "unsafe", "C": "unsafe", "D": "B"}


def pau_formula(x: Tensor, a: Tensor, b: Tensor, tails: Tensor, form: str, dim: int) -> Tensor:
    """P(t) / Q(t) on the range, straight lines beyond it: t = clamp(x, lo, hi) / s.

    P = sum_j a_j t^j, and by form: `unsafe` Q = 1 + sum b_k t^k; `A` Q = 1 + sum |b_k t^k|;
    `B` and `D` Q = 1 + |sum b_k t^k|; `C` Q = 0.1 + |sum b_k t^k|, where k runs from 0 (elsewhere from 1).

    Args:
        x: input of any shape.
        a: (m + 1,) or (C, m + 1), constant first.
        b: (n,) or (C, n); form C has n + 1.
        tails: (5,) or (C, 5): scale s, lo, hi, slope below lo, slope above hi.
        form: `unsafe`, `A`, `B`, `C` or `D` (the noise of D is added to the coefficients by the module).
        dim: the channel axis of x, may be negative.

    Returns:
        A tensor like x; the arithmetic is float32 whatever the type of x, except float64.

    >>> x, tails = torch.tensor([[-1.0, 0.0, 2.0]]), torch.tensor([1.0, -3.0, 3.0, 0.0, 0.0])
    >>> pau_formula(x, torch.tensor([0.0, 1.0]), torch.tensor([1.0]), tails, "A", 1)  # x / (1 + |x|)
    tensor([[-0.5000,  0.0000,  0.6667]])
    """
    if form not in FORMS:
        raise UsageError(f"pau(form={form!r})", why=f"known: {', '.join(FORMS)}", fix='form="A"; "N" is "unsafe" here')
    v = rational_type(x)
    t, tail = clamp_and_tails(v, tails, dim)
    top, bottom = columns(a, v, dim), columns(b, v, dim)
    if form == "A":
        u = t.abs()
        q = 1 + u * horner([c.abs() for c in bottom], u)
    elif form == "C":
        q = 0.1 + horner(bottom, t).abs()
    else:
        inner = t * horner(bottom, t)
        q = 1 + (inner if form == "unsafe" else inner.abs())
    return (horner(top, t) / q + tail).to(x.dtype)


pau = ops.define(
    "pau(Tensor x, Tensor a, Tensor b, Tensor tails, str form, int dim) -> Tensor",
    pau_formula,
)
_by_coordinates = by_coordinates("pau")


class PAU(RationalActivation):
    """Padé activation unit of any degrees and form; begins as LeakyReLU on [-3, 3].

    The form is kept in the state dict beside the coefficients, which mean nothing without it.

    Args:
        channels: width of the channel axis; None shares one set over the layer, as in the literature.
        channel_dim: index of the channel axis.
        degrees: of P and Q.
        form: `A` (F2, safe), `B` (F3, safe), `unsafe` (F1), `C`, or `D`: B with noise in training.
        noise: half-width of the relative noise of D on every coefficient, drawn once per call.
        tails: `linear` (straight lines beyond the range), `trained` (their slopes train) or `none` (P/Q for all x).

    Raises:
        UsageError: an option has a value that it cannot have.

    >>> unit = PAU(degrees=(7, 6), form="B")
    >>> [tuple(part.shape) for part in unit.coefficients()]
    [(8,), (6,)]
    """

    name = "pau"
    form_code: Tensor

    def __init__(
        self,
        channels: int | None = None,
        channel_dim: int = 1,
        degrees: tuple[int, int] = (5, 4),
        form: str = "A",
        noise: float = 0.1,
        tails: str = "linear",
    ) -> None:
        check(
            "PAU", {**_RULES, "form": OneOf(FORMS)}, {"degrees": degrees, "form": form, "noise": noise, "tails": tails}
        )
        super().__init__(channels, channel_dim, degrees, degrees[1] + (form == "C"), ("a", "b"), tails)
        self.noise, self.form = noise, form
        self.register_buffer("form_code", torch.tensor(FORMS.index(form)))
        self.load_start(_parameters([default_fit(self.degrees, _FITTED[form])], form))

    @property
    def basis_and_form(self) -> tuple[str, str]:
        """Powers of t, and the form."""
        return "monomial", self.form

    @property
    def a(self) -> Tensor:
        """Numerator, constant first: (m + 1,) or (C, m + 1)."""
        return self.coefficients()[0]

    @property
    def b(self) -> Tensor:
        """Denominator from b_1 on (b_0 in form C): (n,) or (C, n)."""
        return self.coefficients()[1]

    def load_start(self, params: Mapping[str, Number]) -> None:
        """Write start values; the form first, because the coordinates depend on it."""
        if "form_code" in params:
            self.form_code.fill_(int(cast(float, params["form_code"])))
            self.read_constants()
        super().load_start(params)

    def adapt_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Accept coefficients themselves; a file without a form has that of this module."""
        code = state_dict.get(prefix + "form_code")
        if code is not None and not code.is_meta:
            self.form = FORMS[int(code)]
        super().adapt_state(state_dict, prefix)
        if prefix + "centre" in state_dict:
            state_dict.setdefault(prefix + "form_code", self.form_code)

    def read_constants(self) -> None:
        """Take the form from its buffer."""
        if not self.form_code.is_meta:
            self.form = FORMS[int(self.form_code)]

    def forward(self, x: Tensor) -> Tensor:
        """Compute P/Q on the range and straight lines beyond it."""
        if self.form == "D" and self.training:
            a, b = (c * (1 + self.noise * (2 * torch.rand_like(c) - 1)) for c in self.coefficients())
            return self.with_trained_slopes(pau(x, a, b, self.current_tails().detach(), "D", self.channel_dim), x)
        return self.evaluate(pau, _by_coordinates, x, self.form, self.channel_dim)

    def poles(self) -> list[tuple[float, ...]]:
        """The zeros of Q inside the range, by channel; only the unsafe form can have any."""
        rows = zip(self.b.reshape(-1, self.b.shape[-1]), self.tails.reshape(-1, 5).tolist(), strict=True)
        if self.form != "unsafe":
            return [() for _ in rows]
        return [
            tuple(t * s for t in real_roots(torch.cat([b.new_ones(1), b]), low / s, high / s))
            for b, (s, low, high, _, _) in rows
        ]

    def extra_repr(self) -> str:
        """Show the form."""
        return f"{super().extra_repr()}, form={self.form!r}"


def _parameters(fits: list[PadeFit], form: str, context: StartContext | None = None) -> dict[str, Number]:
    """Fits as parameters of a unit of this form (`best`: that of the first fit), with coordinates for a context."""
    kept = fits[0].form if form == "best" else form
    rows = [(*(_with_constant(f) if form == "C" else (f.numerator, f.denominator)), tails_of(f)) for f in fits]
    context = context or StartContext(histogram=Histogram.uniform(fits[0].lo, fits[0].hi))
    return {**start_params(("a", "b"), ("monomial", kept), rows, context), "form_code": float(FORMS.index(kept))}


def _with_constant(fit: PadeFit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """An unsafe fit as form C: f P / (0.1 + |f Q - 0.1|), with f so large that the bars change nothing."""
    t = np.linspace(fit.lo, fit.hi, 2001) / fit.scale
    q = np.polynomial.polynomial.polyval(t, [1.0, *fit.denominator])
    factor = max(1.0, 0.1 / float(q.min()))
    return (
        tuple(factor * a for a in fit.numerator),
        (factor - 0.1, *(factor * b for b in fit.denominator)),
    )


def _start(source: Source, context: StartContext) -> Start:
    """Fit on the histogram of the site; `form="best"` fits both safe forms and keeps the better."""
    form = str(context.options.get("form", "best"))
    if form == "best":
        # One form per unit: the one with the smaller error over all channels.
        tried = [rational_fits(source, context, "pau", each) for each in ("A", "B")]
        fits = min(tried, key=lambda fits: sum(f.rms_error**2 for f in fits))
    else:
        fits = rational_fits(source, context, "pau", _FITTED[form])
    poles = sum(len(f.poles) for f in fits)
    notes = [range_note(context), f"Q has {poles} real zeros outside the range" if poles else ""]
    return Start(
        "fit",
        _parameters(fits, form, context),
        error=max(f.max_error for f in fits),
        rms=max(f.rms_error for f in fits),
        note="; ".join(filter(None, notes)),
    )


def _unit(channels: int | None, channel_dim: int, form: str = "best", **options: Any) -> PAU:
    """A PAU for a site; `best` is settled by the start, and is A until then."""
    check("pau", _RULES, {"form": form})
    return PAU(channels, channel_dim, form="A" if form == "best" else form, **options)


_RULES: Mapping[str, Rule] = {**RULES, "form": OneOf(("best", *FORMS)), "noise": Real(0.0)}


def _flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    assert isinstance(module, PAU)
    return pau_flops(shape, module.degrees)


def pau_flops(shape: tuple[int, ...], degrees: tuple[int, int]) -> int:
    """A multiply-add per coefficient and element, and twelve for the clamp, the tails and the division."""
    return (sum(degrees) + 12) * elements(shape)


SPEC = Spec(
    name="pau",
    title="Padé unit: a trained rational function",
    paper="Molina et al. 2020, Padé Activation Units, eq. 2-3",
    build=with_own_channels(_unit),
    promise=lambda source: "fit",
    start=_start,
    options={"degrees": (5, 4), "form": "best", "noise": 0.1, "tails": "linear", "per_channel": None},
    no_decay=("coordinates", "slopes"),
    flops=_flops,
    rules=_RULES,
)
