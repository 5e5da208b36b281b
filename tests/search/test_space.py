"""The space: its size, its points as expressions, and which of them are the same function."""

from __future__ import annotations

import pytest

from actswap.activations.fingerprint import fingerprint, probe
from actswap.activations.grammar import parse, text_of
from actswap.errors import UsageError
from actswap.search.space import BINARY, UNARY, Space, published


def test_the_paper_has_so_many_functions() -> None:
    assert len(UNARY) == 25 and len(BINARY) == 10 and len(published()) == 8
    assert Space(1).size == 25 * 25 * 10 == 6250
    assert Space(2).size == 6250 * (2 * 25) ** 2 * 10


@pytest.mark.parametrize(
    ("point", "text"),
    [
        ({"0.u1": "x", "0.u2": "sigmoid(x)", "0.b": "a*b"}, "x*sigmoid(x)"),
        ({"0.u1": "beta*x", "0.u2": "x", "0.b": "sigmoid(a)*b"}, "x*sigmoid(beta*x)"),
        ({"0.u1": "x", "0.u2": "tanh(x)", "0.b": "max(a,b)"}, "max(x, tanh(x))"),
        ({"0.u1": "x", "0.u2": "beta", "0.b": "exp(-beta*|a-b|)"}, "exp(-beta*abs(x-beta))"),
    ],
)
def test_a_point_is_an_expression(point: dict[str, str], text: str) -> None:
    assert fingerprint(Space(1).expression(point)) == fingerprint(parse(text))


def test_a_second_unit_reads_the_first() -> None:
    point = {"0.u1": "x", "0.u2": "x^2", "0.b": "a+b", "1.i1": "unit0", "1.u1": "tanh(x)", "1.i2": "x", "1.u2": "x"}
    assert text_of(Space(2).expression({**point, "1.b": "a*b"})) in ("x*tanh(x+x**2)", "tanh(x+x**2)*x")


def test_every_published_function_is_in_the_space_of_two_units() -> None:
    """Those of one unit are found by enumeration, atan(x)^2 - x and x asinh(x)^2 need a second one."""
    one = set(Space(1).distinct())
    inside = [fingerprint(parse(text)) in one for text in published()]
    assert inside == [True, True, True, True, False, True, True, False]
    points = [
        {"0.u1": "atan(x)", "0.u2": "atan(x)", "1.u2": "x", "1.b": "a-b"},
        {"0.u1": "asinh(x)", "0.u2": "asinh(x)", "1.u2": "x", "1.b": "a*b"},
    ]
    same = {"0.b": "a*b", "1.i1": "unit0", "1.u1": "x", "1.i2": "x"}
    for text, point in zip(("atan(x)**2-x", "x*asinh(x)**2"), points, strict=True):
        assert fingerprint(Space(2).expression({**same, **point})) == fingerprint(parse(text))


def test_distinct_functions_are_different_and_cover_the_space() -> None:
    space = Space(1, ("x", "-x", "|x|", "max(x,0)", "min(x,0)", "beta"), ("a+b", "a*b", "max(a,b)", "min(a,b)"))
    found = space.distinct()
    assert len(found) < space.size
    for point in space.points():
        expression = space.expression(point)
        constant = len(set(probe(expression).tolist())) == 1
        assert (fingerprint(expression) in found) is not constant


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"units": 0}, "units = 0"),
        ({"units": 5}, "1 to 4"),
        ({"unary": ()}, "empty"),
        ({"binary": ("a**b",)}, "no 'a\\*\\*b'"),
        ({"unary": ("x", "x")}, "twice"),
    ],
)
def test_a_space_that_cannot_be_searched(arguments: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Space(**arguments)


def test_a_point_of_another_space_is_refused() -> None:
    with pytest.raises(UsageError, match=r"0\.u2 = 'erf\(x\)' is no choice"):
        Space(1, ("x",)).expression({"0.u1": "x", "0.u2": "erf(x)", "0.b": "a+b"})
