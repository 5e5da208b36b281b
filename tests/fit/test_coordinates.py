"""Training coordinates: derivatives of a Padé unit, and the conditioning that they are made for."""

from __future__ import annotations

import numpy as np
import pytest

from actswap.fit.coordinates import CONDITION, LARGEST, Unit, assumed, coordinates


def unit(form: str = "A", basis: str = "monomial", **changes: float) -> Unit:
    top = np.array([0.1, 1.0, 0.4, 0.1, 0.02])
    bottom = np.array([*([0.5] if form == "C" else []), 0.3, 0.2])
    bounds = {"scale": 2.0, "lo": -4.0, "hi": 4.0, **changes}
    return Unit(basis, form, top, bottom, **bounds)


@pytest.mark.parametrize("basis", ["monomial", "legendre"])
@pytest.mark.parametrize("form", ["A", "B", "C", "D", "unsafe"])
def test_derivatives_are_those_of_the_unit(form: str, basis: str) -> None:
    one, x, h = unit(form, basis), np.linspace(-5.0, 5.0, 40), 1e-6
    top, change, f = one.parts(x)
    for k in range(len(one.numerator) + len(one.denominator)):
        moved = []
        for sign in (1.0, -1.0):
            values = np.concatenate([one.numerator, one.denominator])
            values[k] += sign * h
            a, b = np.split(values, [len(one.numerator)])
            moved.append(Unit(basis, form, a, b, one.scale, one.lo, one.hi).parts(x)[2])
        gradient = np.concatenate([top, -f[:, None] * change], axis=1)[:, k]
        # The denominators have no zero. Central differences are right to h^2 and to eps / h, of values up to 100.
        np.testing.assert_allclose(gradient, (moved[0] - moved[1]) / (2 * h), atol=2e-8)


@pytest.mark.parametrize("form", ["A", "B", "C", "unsafe"])
def test_the_mean_squared_gradient_lies_within_its_bounds(form: str) -> None:
    one, x = unit(form), np.random.default_rng(0).normal(size=2000)
    w = np.full(2000, 1 / 2000)
    mix, radius = coordinates(one, x, w)
    top, change, f = one.parts(x)
    gradient = np.concatenate([top, -f[:, None] * change], axis=1) @ (mix / radius)  # d asinh(u / r) / du = 1 / r at 0
    size = np.linalg.eigvalsh(gradient.T @ gradient / 2000)
    trains = mix.any(axis=0)
    # In form C one direction changes nothing: P and Q times one number, where b_0 takes up the change of 0.1.
    assert trains.sum() == len(trains) - (form == "C") and (radius > 0).all()
    size = size[len(trains) - trains.sum() :]
    assert size[-1] <= LARGEST * (1 + 1e-6) and size[0] >= LARGEST / CONDITION * (1 - 1e-3)


def test_inputs_are_made_up_within_the_range() -> None:
    for one in (unit(), unit(lo=10.0, hi=11.0), unit(lo=-np.inf, hi=np.inf)):
        x, w = assumed(one)
        assert (x >= one.lo).all() and (x <= one.hi).all() and w.sum() == pytest.approx(1.0) and len(x) >= 32
