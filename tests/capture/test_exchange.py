"""Expressions are exchanged in the source, and nothing else of it."""

from __future__ import annotations

import ast
import textwrap

import pytest

from actswap.capture.exchange import Exchange, Rewrite, place_of
from actswap.errors import CaptureError


def exchanged(source: str, marked: str, inplace: bool = False, ordinals: tuple[int, ...] = (0,)) -> str:
    """The source with the expression `marked` exchanged for calls of `child0`, `child1`, ..."""
    function = ast.parse(textwrap.dedent(source)).body[0]
    assert isinstance(function, ast.FunctionDef)
    node = next(n for n in ast.walk(function) if isinstance(n, ast.expr) and ast.unparse(n) == marked)
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and n is not node]
    beside = tuple(place_of(n) for n in calls if "effect" in ast.unparse(n.func))
    rewrite = Rewrite("forward", "", place_of(node), ordinals, beside=beside, inplace=inplace)
    exchange = Exchange(function, [rewrite], {o: f"child{o}" for o in ordinals}, "self")
    function.body = [exchange.visit(statement) for statement in function.body]  # type: ignore[misc]
    function.body[:0] = exchange.queues
    return ast.unparse(ast.fix_missing_locations(ast.Module(function.body, [])))


CHILD = "self._modules['child0']"


@pytest.mark.parametrize(
    ("body", "marked", "inplace", "becomes"),
    [
        ("return F.relu(x) * self.k", "F.relu(x)", False, f"return {CHILD}(x) * self.k"),
        ("return x.relu()", "x.relu()", False, f"return {CHILD}(x)"),
        ("return F.relu(input=self.a(x))", "F.relu(input=self.a(x))", False, f"return {CHILD}(self.a(x))"),
        ("y = F.relu(x, True)", "F.relu(x, True)", True, f"y = (x := {CHILD}(x))"),
        ("F.relu_(x)", "F.relu_(x)", True, f"(x := {CHILD}(x))"),
        ("y = [F.relu_(p) for p in x]", "F.relu_(p)", True, f"y = [{CHILD}(p) for p in x]"),
        ("return f(x, self.effect())", "f(x, self.effect())", False, f"return (self.effect(), {CHILD}(x))[-1]"),
    ],
)
def test_a_call(body: str, marked: str, inplace: bool, becomes: str) -> None:
    assert exchanged(f"def forward(self, x):\n    {body}\n", marked, inplace) == becomes


def test_a_call_in_a_loop_takes_its_children_in_order_and_then_the_last() -> None:
    text = exchanged("def forward(self, x):\n    for a in x:\n        x = F.relu(x)\n", "F.relu(x)", ordinals=(0, 1))
    first, *rest = text.split("\n")
    assert first == "_actswap_0 = [self._modules['child1'], self._modules['child0']]"
    assert rest[-1].strip() == "x = (_actswap_0.pop() if _actswap_0 else self._modules['child1'])(x)"


def test_a_call_without_a_tensor_is_refused() -> None:
    with pytest.raises(CaptureError, match="shows no tensor"):
        exchanged("def forward(self, *x):\n    return relu(*x)\n", "relu(*x)")
