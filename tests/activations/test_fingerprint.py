"""Equal functions have equal fingerprints, different ones different; the canonical form changes no value."""

from __future__ import annotations

import itertools

import pytest
import torch

from actswap.activations.fingerprint import canonical_expression, fingerprint, probe
from actswap.activations.grammar import parse, text_of

SAME = [
    ("max(x, 0)", "relu(x)"), ("x*sigmoid(x)", "sigmoid(x)*x"), ("x+x", "2*x"), ("tanh(x)", "2*sigmoid(2*x)-1"),
    ("-(-x)", "x"), ("x - 0", "x"), ("1*x", "x"), ("max(x, x)", "x"), ("softplus(x)", "-log(sigmoid(-x))+0"),
]  # fmt: skip
UNARY = ("x", "-x", "x**2", "sin(x)", "exp(-x**2)", "beta*x", "x+beta", "beta", "min(x, 0)", "log(x)")
BINARY = (
    "({a})+({b})",
    "({a})*({b})",
    "({a})/({b})",
    "max({a}, {b})",
    "sigmoid({a})*({b})",
    "beta*({a})+(1-beta)*({b})",
)


@pytest.mark.parametrize(("a", "b"), SAME[:-1])
def test_the_same_function(a: str, b: str) -> None:
    assert fingerprint(parse(a)) == fingerprint(parse(b))


def test_a_guard_makes_another_function() -> None:
    assert fingerprint(parse(SAME[-1][0])) != fingerprint(parse(SAME[-1][1])), "log adds 1e-6"


def test_functions_that_differ_are_told_apart() -> None:
    texts = [
        "x",
        "-x",
        "abs(x)",
        "relu(x)",
        "x*sigmoid(x)",
        "x*sigmoid(beta*x)",
        "x*erf(x)",
        "x*sigmoid(1.0001*x)",
        "beta",
    ]
    assert len({fingerprint(parse(t)) for t in texts}) == len(texts)


def test_canonical_forms_keep_every_value_and_are_fixed_points() -> None:
    for form, a, b in itertools.product(BINARY, UNARY, UNARY):
        tree = parse(form.format(a=a, b=b))
        simple = canonical_expression(tree)
        # Only the order of two summands or factors changes, and constants are folded: a rounding or two.
        torch.testing.assert_close(probe(simple), probe(tree), rtol=1e-12, atol=0, equal_nan=True)
        assert canonical_expression(simple) == simple and parse(text_of(simple)) == simple


def test_the_order_in_which_an_expression_is_written_is_forgotten() -> None:
    a, b = parse("max(sigmoid(x)*x, x+1)"), parse("max(1+x, x*sigmoid(x))")
    assert a != b and canonical_expression(a) == canonical_expression(b)
