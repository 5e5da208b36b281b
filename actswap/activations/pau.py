"""PAU: Padé activation units, rational functions with trained coefficients (Molina et al. 2020, eq. 2-3)."""

from __future__ import annotations

from torch import Tensor

from actswap import ops
from actswap.activations.rational import clamp_and_tails, columns, horner, rational_type


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
    """
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
