"""Source becomes trees and code, also in threads that do so at the same time."""

from __future__ import annotations
import __future__

import ast
from concurrent.futures import ThreadPoolExecutor

import pytest

from actswap.capture.syntax import compiled, parsed

DEEP = "x = " + "(" * 40 + "1" + " + 1)" * 40


def test_threads_that_parse_and_compile_at_the_same_time() -> None:
    def work(k: int) -> int:
        names: dict[str, int] = {}
        exec(compiled(parsed(f"{DEEP} + {k}"), "<text>", 0), names)
        return names["x"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(400))) == [41 + k for k in range(400)]


def test_flags_hold_and_errors_arrive() -> None:
    flag = __future__.annotations.compiler_flag
    names: dict[str, object] = {}
    exec(compiled(parsed("def f(x: unknown): pass"), "<text>", flag), names)
    assert names["f"].__annotations__ == {"x": "unknown"}  # type: ignore[attr-defined]
    with pytest.raises(SyntaxError):
        parsed("x =")
    assert isinstance(parsed("y").body[0], ast.Expr)
