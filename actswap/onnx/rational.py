"""ONNX bodies of the Padé units: Horner's rule and three-term recurrences, written out for each degree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actswap.activations.base import OnnxFunction

# Coefficients of f_{n+1} = (p t + q) f_n + r f_{n-1}, and of f_1 = p t + q.
_Step = Callable[[int], tuple[float, float, float]]
_RECURRENCES: Mapping[str, tuple[tuple[float, float], _Step]] = {
    "chebyshev_t": ((1.0, 0.0), lambda n: (2.0, 0.0, -1.0)),
    "chebyshev_u": ((2.0, 0.0), lambda n: (2.0, 0.0, -1.0)),
    "legendre": ((1.0, 0.0), lambda n: ((2 * n + 1) / (n + 1), 0.0, -n / (n + 1))),
    "laguerre": ((-1.0, 1.0), lambda n: (-1 / (n + 1), (2 * n + 1) / (n + 1), -n / (n + 1))),
    "hermite_prob": ((1.0, 0.0), lambda n: (1.0, 0.0, -float(n))),
    "hermite_phys": ((2.0, 0.0), lambda n: (2.0, 0.0, -2.0 * n)),
}

# t = clamp(x, lo, hi) / s and the tails. The way along a flat tail is capped at a finite number, because 0 times
# infinity is NaN.
_RANGE = """
    xf = Cast <to = 1> (x)
    scale = Gather <axis = 0> (tails, i0)
    low = Gather <axis = 0> (tails, i1)
    high = Gather <axis = 0> (tails, i2)
    slope_low = Gather <axis = 0> (tails, i3)
    slope_high = Gather <axis = 0> (tails, i4)
    zero = Constant <value = float {0.0}> ()
    one = Constant <value = float {1.0}> ()
    largest = Constant <value = float {3.4e38}> ()
    endless = Constant <value_float = inf> ()
    flat_low = Equal (slope_low, zero)
    flat_high = Equal (slope_high, zero)
    cap_low = Where (flat_low, largest, endless)
    cap_high = Where (flat_high, largest, endless)
    to_low = Sub (low, xf)
    to_high = Sub (xf, high)
    over_low = Relu (to_low)
    over_high = Relu (to_high)
    below = Min (over_low, cap_low)
    above = Min (over_high, cap_high)
    tail_low = Mul (below, slope_low)
    tail_high = Mul (above, slope_high)
    tail = Sub (tail_high, tail_low)
    under = Min (xf, high)
    inside = Max (under, low)
    inverse = Div (one, scale)
    t = Mul (inside, inverse)
"""

_END = """
    ratio = Div (p, q)
    yf = Add (ratio, tail)
    y = CastLike (yf, x)
"""


def pau_function(form: str, top: int, bottom: int) -> OnnxFunction:
    """PAU with `top` numerator and `bottom` denominator coefficients; `activations.pau` defines the forms."""
    form = "B" if form == "D" else form
    text = _indices(max(top, bottom, 5)) + _RANGE + _gather("a", top) + _gather("b", bottom)
    text += _horner([f"a{j}" for j in range(top)], "t", "p")
    if form == "A":
        text += "    u = Abs (t)\n" + "".join(f"    m{k} = Abs (b{k})\n" for k in range(bottom))
        text += _horner([f"m{k}" for k in range(bottom)], "u", "h") + "    w = Mul (h, u)\n    q = Add (w, one)\n"
    elif form == "C":
        text += _horner([f"b{k}" for k in range(bottom)], "t", "h")
        text += "    w = Abs (h)\n    tenth = Constant <value = float {0.1}> ()\n    q = Add (w, tenth)\n"
    else:
        text += _horner([f"b{k}" for k in range(bottom)], "t", "h") + "    g = Mul (h, t)\n"
        text += f"    w = {'Identity' if form == 'unsafe' else 'Abs'} (g)\n    q = Add (w, one)\n"
    name = f"Pau{form.capitalize()}_{top - 1}_{bottom - (form == 'C')}"
    return OnnxFunction(name, ("x", "a", "b", "tails"), {}, text + _END)


def opau_function(basis: str, safe: bool, top: int, bottom: int) -> OnnxFunction:
    """OPAU in a basis, with `top` numerator and `bottom` denominator coefficients."""
    degree = max(top - 1, bottom)
    text = _indices(max(top, bottom, 5)) + _RANGE + _gather("c", top) + _gather("d", bottom)
    text += _basis(basis, degree)
    text += "    p0 = Identity (c0)\n" + "".join(
        f"    n{k} = Mul (f{k}, c{k})\n    p{k} = Add (p{k - 1}, n{k})\n" for k in range(1, top)
    )
    for k in range(1, bottom + 1):
        if safe:
            text += f"    af{k} = Abs (f{k})\n    ad{k} = Abs (d{k - 1})\n    e{k} = Mul (af{k}, ad{k})\n"
        else:
            text += f"    e{k} = Mul (f{k}, d{k - 1})\n"
        text += f"    q{k} = Add ({f'q{k - 1}' if k > 1 else 'one'}, e{k})\n"
    text += f"    p = Identity (p{top - 1})\n    q = Identity (q{bottom})\n"
    words = "".join(word.capitalize() for word in basis.split("_"))
    name = f"Opau{words}{'' if safe else 'Unsafe'}_{top - 1}_{bottom}"
    return OnnxFunction(name, ("x", "c", "d", "tails"), {}, text + _END)


def _indices(count: int) -> str:
    return "".join(f"    i{k} = Constant <value_int = {k}> ()\n" for k in range(count))


def _gather(source: str, count: int) -> str:
    return "".join(f"    {source}{k} = Gather <axis = 0> ({source}, i{k})\n" for k in range(count))


def _horner(coefficients: Sequence[str], t: str, result: str) -> str:
    """Evaluate the polynomial with these coefficients, constant first, at `t`."""
    *rest, last = coefficients
    if not rest:
        return f"    {result} = Identity ({last})\n"
    text, value = "", last
    for k in reversed(range(len(rest))):
        following = result if k == 0 else f"{result}_{k}"
        text += f"    {result}_t{k} = Mul ({t}, {value})\n    {following} = Add ({result}_t{k}, {rest[k]})\n"
        value = following
    return text


def _basis(basis: str, degree: int) -> str:
    """The polynomials f1 .. f_degree at t."""
    (p, q), step = _RECURRENCES[basis]
    text = _affine("f1", p, q)
    for n in range(1, degree):
        p, q, r = step(n)
        previous = f"f{n - 1}" if n > 1 else "one"
        text += _affine(f"g{n}", p, q) + _constant(f"r{n}", r)
        text += f"    h{n} = Mul (g{n}, f{n})\n    k{n} = Mul ({previous}, r{n})\n"
        text += f"    f{n + 1} = Add (h{n}, k{n})\n"
    return text


def _affine(name: str, p: float, q: float) -> str:
    """`name` = p t + q."""
    if (p, q) == (1.0, 0.0):
        return f"    {name} = Identity (t)\n"
    if q == 0.0:
        return _constant(f"{name}_p", p) + f"    {name} = Mul (t, {name}_p)\n"
    return (
        _constant(f"{name}_p", p)
        + _constant(f"{name}_q", q)
        + f"    {name}_s = Mul (t, {name}_p)\n    {name} = Add ({name}_s, {name}_q)\n"
    )


def _constant(name: str, value: float) -> str:
    return f"    {name} = Constant <value = float {{{value!r}}}> ()\n"
