"""The page of a search: well formed, loads nothing, holds its figures; JSON lines hold every trial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from search_children import follows
from strict_html import Checked

from actswap.search.page import Searched, gather_search, lines_of, render_search, write_search_page
from actswap.search.space import Space
from actswap.search.study import SearchConfig, open_study, work

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SMALL = Space(1, ("x", "sigmoid(x)", "exp(x)", "max(x,0)"), ("a*b", "a/b"))


@pytest.fixture(scope="module")
def searches() -> list[Searched]:
    found = []
    for sampler in ("random", "exhaustive"):
        study = open_study(SMALL, SearchConfig(sampler, 40))
        work(study, SMALL, follows("x*sigmoid(x)"), 40)
        found.append(gather_search(f"<{sampler}>", {"search": {"sampler": sampler, "seed": 0}}, study))
    return found


def test_the_page(searches: list[Searched], tmp_path: Path) -> None:
    page = Checked(write_search_page(searches, tmp_path / "r.html", 3).read_text())
    assert page.counts["h1"] == 1 and page.counts["h2"] == 3
    # the best so far and the rewards (the exhaustive search has too few trials for a mean); then per search a picture
    # of score over FLOPs and up to 12 functions
    assert page.counts["svg"] == 2 + sum(1 + min(12, len(s.ranking)) for s in searches)
    assert "<random>" in " ".join(page.words) and "x*sigmoid(x)" in " ".join(page.words)
    assert page.data["searches"][1]["ranking"][0]["expression"] == "x*sigmoid(x)"
    assert "default-src 'none'" in render_search(searches, 3)


def test_the_front_is_cheap_or_good(searches: list[Searched]) -> None:
    front = searches[1].front()
    costs = [searches[1].flops[f.expression] for f in front]
    assert costs == sorted(costs) and [f.score for f in front] == sorted(f.score for f in front)
    assert front[-1].expression == "x*sigmoid(x)"
    assert all(c >= costs[0] for c in searches[1].flops.values())


def test_lines(searches: list[Searched]) -> None:
    rows = [json.loads(line) for line in lines_of(searches).splitlines()]
    assert len(rows) == sum(len(s.trials) for s in searches) and rows[0]["search"] == "<random>"


def test_a_search_without_trials() -> None:
    page = Checked(render_search([Searched("empty", {}, (), ())], 3))
    assert "No trial has finished." in " ".join(page.words)
