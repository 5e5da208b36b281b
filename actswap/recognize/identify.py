"""Which known function a formula is: decided by what it computes, not by how it is written.

A formula is computed on a grid and compared with every row of `PLAIN`. A family with constants first solves for them
from a few values. The grid is dense where activations bend, and reaches so far that no cap escapes it. A tensor that
the model trains is moved before the comparison: a kind must hold for every value of it, not only for the one at hand.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from actswap.activations import formula
from actswap.activations.formula import Expr
from actswap.activations.plain import PLAIN, Plain
from actswap.sites import Number, Source

_TOLERANCE = 2e-5  # relative to 1 + |f|: people write constants with 4 to 8 digits; GELU's two forms are 5e-4 apart
_DENSE = torch.linspace(-9.13, 9.07, 131, dtype=torch.float64)
_WIDE = torch.tensor([s * 3.7 * 10.0**k for k in (-3, -2, 1, 2, 3, 4, 6, 9, 12) for s in (-1, 1)], dtype=torch.float64)
_GRID = torch.cat([_DENSE, _WIDE])
# Before the families: the special case has the simpler name.
_LAST = ("swish", "leaky_relu", "prelu", "hardtanh", "threshold", "tanhsoft1", "tanhsoft2")
_NEVER = ("identity", "prelu", "acon_c")  # prelu is leaky_relu with trained or several slopes
_ORDER = tuple(PLAIN[k] for k in (*(n for n in PLAIN if n not in _LAST), *_LAST) if k not in _NEVER)


def identify(e: Expr, tensors: Sequence[Tensor] = (), trained: Sequence[bool] = ()) -> Source | None:
    """Return the known function that a formula is, or None.

    Args:
        e: the formula.
        tensors: its constant tensors; each has one element, or one for each channel.
        trained: for each tensor, whether the model may change it; none of them if left out.

    Returns:
        The source with the values that its constants have now, without the names of the trained tensors.
    """
    if not tensors:
        return _of_numbers(e)
    values = [t.detach().double().flatten().cpu() for t in tensors]
    moved = [_moved(v, k) if trained and trained[k] else v for k, v in enumerate(values)]
    wide = max(v.numel() for v in values) > 1
    for plain in _ORDER:
        if plain.guards and any(trained):
            continue
        elsewhere = _agrees(plain, e, moved)
        constants = None if elsewhere is None else _agrees(plain, e, values)
        if elsewhere is None or constants is None:
            continue
        named = {name: _snap(value, values) for name, value in constants.items()}
        return _named(plain, named, wide or any(trained))
    return _acon(e, values, moved) if 2 <= len(values) <= 3 else None


def _acon(e: Expr, values: Sequence[Tensor], moved: Sequence[Tensor]) -> Source | None:
    """ACON-C, if p1, p2 and beta stand in the formula as such; one or two of them may be 1 or 0 for good.

    It cannot be solved for them: p1 and p2 may change places.
    """
    expected, usable = _computed(e, moved)
    if expected is None or "sigmoid" not in formula.names(e):
        return None
    fn, count = PLAIN["acon_c"].fn, len(values)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    options = (*range(count), "one", "zero")
    for chosen in itertools.product(options, options, (*range(count), "one")):
        if not set(range(count)) <= set(chosen):
            continue
        p1, p2, beta = (moved[c] if isinstance(c, int) else one if c == "one" else zero for c in chosen)
        fine = ((fn(_GRID[:, None], p1, p2, beta) - expected).abs() <= _TOLERANCE * (1 + expected.abs())) | ~usable
        if bool(fine.all()):
            now = (values[c] if isinstance(c, int) else one if c == "one" else zero for c in chosen)
            flat = ([float(v) for v in t] for t in now)
            numbers = [row[0] if len(row) == 1 else tuple(row) for row in flat]
            return Source.of("acon_c", **dict(zip(("p1", "p2", "beta"), numbers, strict=True)))
    return None


@functools.lru_cache(maxsize=4096)
def _of_numbers(e: Expr) -> Source | None:
    for plain in _ORDER:
        constants = _agrees(plain, e, [])
        if constants is not None:
            return _named(plain, {name: _rounded(float(value)) for name, value in constants.items()}, False)
    return None


def _named(plain: Plain, constants: Mapping[str, Number], per_channel: bool) -> Source | None:
    """The source under its usual name, without constants that are the default of every call."""
    if plain.name == "leaky_relu":
        slope = constants["slope"]
        if not per_channel and slope in (0.0, 1.0, -1.0):
            return None
        return Source.of("prelu" if per_channel else "leaky_relu", **constants)
    if plain.name == "swish" and constants["beta"] == 1.0 and not per_channel:
        return Source("silu")
    if plain.name in ("hardshrink", "softshrink") and constants["lambd"] == 0.0:
        return None  # it is x
    if plain.name == "star_relu" and not per_channel and constants["bias"] == 0.0:
        return None  # a scaled square: the scale stays in the graph
    if plain.name == "hardsigmoid" and constants.get("slope") == _rounded(1 / 6):
        return Source("hardsigmoid")
    if plain.name == "hardsigmoid" and constants.get("slope") == 1.0:
        return None  # x is scaled before it is shifted: the formula begins further back
    if plain.name == "hardtanh":
        low, high = constants["low"], constants["high"]
        if not (isinstance(low, float) and isinstance(high, float) and low < high):
            return None
        if (low, high) == (0.0, 6.0):
            return Source("relu6")
    if plain.name == "threshold" and constants["threshold"] == constants["value"]:
        return Source("relu") if constants["value"] == 0.0 else None  # a lower limit, as of what is divided by
    if plain.name == "softplus":
        constants = {**constants, "threshold": 20.0}
    return Source.of(plain.name, **constants)


def _agrees(plain: Plain, e: Expr, values: Sequence[Tensor]) -> dict[str, Tensor] | None:
    """The constants with which a row is the formula, or None."""
    expected, usable = _computed(e, values)
    if expected is None:
        return None
    constants: dict[str, Tensor] = {}
    with torch.no_grad():
        if plain.solve is not None:
            constants = _solved(plain, lambda x: _at(e, x, values))
            if not constants or any(not bool(v.isfinite().all()) for v in constants.values()):
                return None
            found = plain.fn(_GRID[:, None], **{**plain.constants, **constants})
        else:
            found = _grid_values(plain.name)
    allowed = _TOLERANCE * (1 + expected.abs())
    allowed = torch.where((found == 0) & (_GRID.abs() > 100)[:, None], 1e-9, allowed)  # clamp(min=1e-6) is no ReLU
    fine = ((found - expected).abs() <= allowed) | ~usable
    return constants if bool(fine.all()) else None


def _solved(plain: Plain, at: Callable[[float], Tensor]) -> dict[str, Tensor]:
    assert plain.solve is not None
    found = plain.solve(at)
    positive = {"softplus": "beta", "celu": "alpha", "elu": "alpha"}.get(plain.name)
    return {} if positive and not bool((found[positive] > 1e-3).all()) else found


_LATEST: list[tuple[Expr, tuple[Tensor, ...], Tensor | None, Tensor]] = []


def _computed(e: Expr, values: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
    """The formula on the grid, (points, channels), and where it is finite; None if it overflows where it bends."""
    key = tuple(values)
    for known, tensors, result, usable in _LATEST:
        if known is e and len(tensors) == len(key) and all(a is b for a, b in zip(tensors, key, strict=True)):
            return result, usable
    try:
        with torch.no_grad():
            found = formula.compute(e, _GRID[:, None], values).double()
    except (RuntimeError, TypeError):
        return None, torch.zeros(0)
    usable = found.isfinite()
    result = found if found.dim() == 2 and bool(usable[: len(_DENSE)].all()) else None
    _LATEST[:] = [(e, key, result, usable), *_LATEST[:1]]
    return result, usable


def _at(e: Expr, x: float, values: Sequence[Tensor]) -> Tensor:
    return formula.compute(e, torch.full((1,), x, dtype=torch.float64), values).double()


@functools.cache
def _grid_values(name: str) -> Tensor:
    plain = PLAIN[name]
    return plain.fn(_GRID[:, None], **plain.constants)


def _moved(value: Tensor, k: int) -> Tensor:
    """Another value that the tensor might have, different in every element and from every other tensor's."""
    steps = torch.arange(1, value.numel() + 1, dtype=torch.float64)
    return value * (1.07 + 0.013 * k) + (0.031 + 0.017 * k) * (1 + 0.1 * torch.sin(steps))


def _rounded(value: float) -> float:
    """A number as people write it: what solving adds to it lies beyond the ninth digit."""
    return float(f"{value:.9g}") + 0.0 if abs(value) > 1e-12 else 0.0


def _snap(found: Tensor, values: Sequence[Tensor]) -> Number:
    """A constant as the exact value of the tensor that it is, if it is one, else rounded."""
    for value in values:
        shaped = value.expand_as(found) if value.numel() == 1 else value
        if shaped.shape == found.shape and torch.allclose(shaped, found, rtol=1e-6, atol=1e-9):
            found = value
            break
    else:
        found = torch.tensor([_rounded(float(v)) for v in found.flatten()], dtype=torch.float64)
    flat = [float(v) + 0.0 for v in found.flatten()]
    return flat[0] if len(flat) == 1 else tuple(flat)


def is_rational(e: Expr) -> bool:
    """Whether a formula is a quotient of polynomials of x, with absolute values in the denominator at most."""
    return formula.names(e) <= {"add", "sub", "mul", "div", "pow", "abs", "neg", "square", "reciprocal"} and bool(
        formula.names(e) & {"div", "reciprocal"} and not math.isinf(_polynomials(e))
    )


def _polynomials(e: Expr) -> float:
    """0 for what holds no quotient in x, 1 for one quotient at the top (scaled or shifted), infinity for more."""
    if not isinstance(e, tuple) or e[0] in ("x", "p", "m"):
        return 0
    inner = sum(_polynomials(a) for a in e[1:]) + (e[0] in ("div", "reciprocal") and formula.degree(e[-1]) > 0)
    return inner if inner < 2 else math.inf
