"""The page of assignments."""

from __future__ import annotations

from pathlib import Path

from strict_html import Checked

from actswap.search.assignment import Assigned
from actswap.search.assignment_page import render_assignments, write_assignments

TRIED = [
    Assigned({}, 1.0, 0.5, 1.0, 0),
    Assigned({"a<b>": "acon_c"}, 0.8, 0.6, 2.0, 1),
    Assigned({"a<b>": "pau"}, 0.9, 0.6, 3.0, 2),
    Assigned({"a<b>": "exp(x)"}, 1e9, 0.0, 0.5, 3, "DivergenceError: at step 2"),
]


def test_the_front_stands_before_the_rest(tmp_path: Path) -> None:
    page = Checked(write_assignments(TRIED, "ms", {"schema": 1}, tmp_path / "r.html").read_text())
    text = " ".join(page.words)
    assert page.counts["svg"] == 1 and page.counts["h2"] == 2 and page.data == {"schema": 1}
    assert text.count("a<b>=acon_c") == 2 and text.count("a<b>=pau") == 1, "only the first is on the front"
    assert "DivergenceError" in text and "all kept" in text


def test_nothing_was_tried() -> None:
    assert "svg" not in Checked(render_assignments([], "ms", {})).counts
