"""SECURITY.md lists what is allowed: the lists in the code and the tables of the page are the same."""

from __future__ import annotations

import re
from pathlib import Path

import actswap
from actswap.io import allowed
from actswap.io.operators import is_allowed

PAGE = (Path(actswap.__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")


def row(start: str) -> set[str]:
    """Return the code words in the second column of the row that begins so."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {start}")]
    return set(re.findall(r"`([^`]+)`", line.split("|")[2]))


def test_the_table_of_pickles_is_the_code():
    assert row("functions that rebuild tensors") == {name for _, name in allowed.TENSORS}
    assert row("containers") == {name for _, name in allowed.CONTAINERS}
    assert row("plain classes") == {name for _, name in allowed._PLAIN}
    assert row("classes with a `__setstate__`") == {name for _, name in allowed._REVIEWED_SETSTATE}
    named = {name for _, name in allowed.FUNCTIONS} | {name for _, name in allowed._LIBRARY_FUNCTIONS}
    assert row("functions as values") == named


def test_the_operators_that_the_page_refuses_are_refused():
    for effect in ("files, printing", "storages", "sparse", "custom objects"):
        for name in row(effect):
            overload = name if "." in name else f"{name}.default"
            assert not is_allowed(f"torch.ops.aten.{overload}"), name
