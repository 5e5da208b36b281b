"""Texts become trees and texts again; a text that is none is refused at its column."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actswap.activations.expression import BETA, FUNCTIONS, Apply, Expression, Number, Variable, X
from actswap.activations.grammar import looks_like_expression, parse, text_of
from actswap.errors import UsageError

LEAVES = st.one_of(
    st.sampled_from([X, BETA, Variable("beta3")]),
    st.floats(min_value=0, max_value=1e6, allow_nan=False).map(Number),
)
# A parsed number takes the sign before it, so the minus of a number is no tree of the grammar.
TREES: st.SearchStrategy[Expression] = st.recursive(
    LEAVES,
    lambda inner: st.sampled_from(sorted(FUNCTIONS)).flatmap(
        lambda name: st.tuples(*[inner] * FUNCTIONS[name].arity).map(lambda a: Apply(name, a))
    ),
    max_leaves=12,
).filter(lambda tree: "neg', arguments=(Number" not in repr(tree))


@given(TREES)
def test_a_tree_is_written_and_read(tree: Expression) -> None:
    assert parse(text_of(tree)) == tree


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (" x * sigmoid( beta*x ) ", "x*sigmoid(beta*x)"),
        ("-x**2", "-x**2"),
        ("(-x)**2", "(-x)**2"),
        ("x-(x-1)", "x-(x-1)"),
        ("(x-x)-1", "x-x-1"),
        ("x/(x*2)", "x/(x*2)"),
        ("--x", "x"),
        ("-2*x", "(-2)*x"),
        (".5e1*x", "5*x"),
    ],
)
def test_brackets_stand_only_if_they_are_needed(text: str, written: str) -> None:
    assert text_of(parse(text)) == written


@pytest.mark.parametrize(
    ("text", "column", "word"),
    [
        ("x*sigmid(x)", 3, "sigmoid"),
        ("x+", 3, "the end"),
        ("", 1, "the end"),
        ("max(x)", 1, "2 arguments"),
        ("tanh(x, x)", 1, "1 argument"),
        ("x**4", 4, "2 or 3"),
        ("(x", 3, "')'"),
        ("x y", 3, "'y'"),
        ("x*$", 3, "'$'"),
        ("1e999", 1, "finite"),
        ("y", 1, "no function 'y'"),
        ("sigmoid x", 9, "'('"),
        ("__import__('os')", 1, "__import__"),
        ("(" * 60 + "x" + ")" * 60, 51, "brackets"),
        ("x*\u0663", 3, "no meaning"),
    ],
)
def test_an_error_points_at_its_column(text: str, column: int, word: str) -> None:
    with pytest.raises(UsageError, match=f"column {column}\n") as caught:
        parse(text)
    assert word in str(caught.value)


def test_a_long_text_and_many_signs_end_in_words() -> None:
    with pytest.raises(UsageError, match="1001 characters"):
        parse("x" * 1001)
    assert parse("-" * 999 + "x") == Apply("neg", (X,))


def test_names_of_activations_are_no_expressions() -> None:
    assert not any(looks_like_expression(name) for name in ("acon_c", "xcon", "x_asinh2", "beta"))
    assert all(looks_like_expression(text) for text in ("x", "-x", "tanh(x)", "x*x"))
