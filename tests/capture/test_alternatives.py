"""The same call in another state of the module is found, and a different one is not."""

from __future__ import annotations

import ast

import pytest

from actswap.capture.alternatives import other_sides
from actswap.capture.exchange import Rewrite, place_of


def found(body: str) -> list[str]:
    """What is rewritten beside the last `F.relu(...)` of a forward, which alone has run."""
    function = ast.parse("def forward(self, x):\n" + body).body[0]
    assert isinstance(function, ast.FunctionDef)
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call) and ast.unparse(n.func) == "F.relu"]
    ran = place_of(max(calls, key=place_of))
    sides = other_sides(function, [Rewrite("forward", "", ran, (0,))], frozenset((ran,)))
    expressions = [n for n in ast.walk(function) if isinstance(n, ast.expr)]
    return [ast.unparse(n) for s in sides for n in expressions if place_of(n) == s.place]


@pytest.mark.parametrize(
    "body",
    [
        "    if hasattr(self, 'm'):\n        return F.relu(self.m(x))\n    return F.relu(self.a(x))\n",
        "    if self.training:\n        y = F.relu(self.m(x))\n    else:\n        return F.relu(self.a(x))\n",
        "    return F.relu(self.m(x)) if self.deployed else F.relu(self.a(x))\n",
    ],
    ids=["early return", "else", "expression"],
)
def test_the_other_side_of_a_condition_on_the_module(body: str) -> None:
    assert found(body) == ["F.relu(self.m(x))"]


@pytest.mark.parametrize(
    "body",
    [
        "    if x.sum() > 0:\n        return F.relu(self.m(x))\n    return F.relu(self.a(x))\n",
        "    if self.k > x:\n        return F.relu(self.m(x))\n    return F.relu(self.a(x))\n",
        "    if self.k:\n        return F.relu(F.relu(x))\n    return F.relu(self.a(x))\n",
        "    y = F.relu(self.m(x)) if self.k else F.relu(x)\n    return F.relu(self.a(y))\n",
        "    if self.k:\n        return F.relu(x, True)\n    return F.relu(self.a(x))\n",
    ],
    ids=["data", "data and module", "two calls for one", "not the same condition", "another call"],
)
def test_what_depends_on_data_or_differs_is_left(body: str) -> None:
    assert found(body) == []
