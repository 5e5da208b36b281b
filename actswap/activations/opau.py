"""OPAU: orthogonal Padé activation units (Biswas et al. 2021, eq. 6 and its safe form)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from actswap import ops
from actswap.activations.rational import clamp_and_tails, columns, rational_type

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

    Q = 1 + sum_{j>=1} |d_j| |f_j(t)| where safe, else 1 + sum_{j>=1} d_j f_j(t).

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
    """
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
