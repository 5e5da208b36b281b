"""A search: what is tried, what a failure scores, what a dead worker leaves, and that it resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_children import failing, follows

from actswap.errors import UsageError
from actswap.search.results import ranking
from actswap.search.samplers import SAMPLERS
from actswap.search.space import Space
from actswap.search.storage import open_storage
from actswap.search.study import SearchConfig, document_of, open_study, work

SMALL = Space(1, ("x", "sigmoid(x)", "tanh(x)", "sin(x)", "exp(x)", "max(x,0)"), ("a*b", "a+b", "max(a,b)"))
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def search(tmp_path: Path | None, sampler: str, trials: int, child=None, halving: int = 0):
    storage = None if tmp_path is None else open_storage(str(tmp_path / "search.journal"))
    study = open_study(SMALL, SearchConfig(sampler, trials, halving, seed=3), storage)
    work(study, SMALL, child or follows("x*sigmoid(x)"), trials, rungs=2)
    return study


def test_an_exhaustive_search_tries_every_function_once_and_ends(tmp_path: Path) -> None:
    study = search(tmp_path, "exhaustive", 10_000)
    found = ranking(study)
    assert len(found) == len(SMALL.distinct()) and found[0].expression == "x*sigmoid(x)" and found[0].score == 1
    assert len({f.expression for f in found}) == len(found)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_a_function_of_its_seed(sampler: str) -> None:
    tried = [ranking(search(None, sampler, 25)) for _ in range(2)]
    assert tried[0] == tried[1] and len(tried[0]) > 5


def test_children_that_fail_score_nothing_and_stop_nothing() -> None:
    found = ranking(search(None, "exhaustive", 10_000, failing))
    assert len(found) == len(SMALL.distinct())
    for f in found:
        assert f.score == (0.0 if "sin(" in f.expression or "exp(" in f.expression else 0.5)
    assert {f.state for f in found if "sin(" in f.expression} == {"failed"}
    assert any(f.error == "RuntimeError: no message" or f.error.startswith("RuntimeError") for f in found)


def test_halving_stops_most_children_early_but_not_the_best() -> None:
    found = ranking(search(None, "exhaustive", 10_000, halving=3))
    pruned = [f for f in found if f.state == "pruned"]
    assert len(pruned) > len(found) / 3 and all(len(f.rungs) == 1 for f in pruned)
    assert found[0].expression == "x*sigmoid(x)" and len(found[0].rungs) == 2


def test_a_search_goes_on_from_its_journal(tmp_path: Path) -> None:
    whole = ranking(search(None, "controller", 40))
    search(tmp_path, "controller", 15)
    parts = ranking(search(tmp_path, "controller", 40))
    assert parts == whole


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "search.journal"))
    open_study(SMALL, SearchConfig("random"), storage)
    with pytest.raises(UsageError, match="--name ANOTHER") as found:
        open_study(SMALL, SearchConfig("random", halving=2), storage)
    assert "search.halving was 3, is 2" in str(found.value)
    with pytest.raises(UsageError, match=r"space\.unary was"):
        open_study(Space(1), SearchConfig("random"), storage)


def test_a_search_may_get_more_trials_and_workers_read_of_it(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "search.journal"))
    assert storage is not None
    open_study(SMALL, SearchConfig("random", 10), storage, more={"title": "a"})
    open_study(SMALL, SearchConfig("random", 20), storage, more={"title": "b"})
    assert document_of(storage, "search")["search"]["trials"] == 20
    with pytest.raises(UsageError, match="it holds search"):
        document_of(storage, "other")


def test_constants_and_unexpected_errors_score_nothing() -> None:
    def broken(text: str, number: int):
        raise KeyError(text)
        yield 0.0

    space = Space(1, ("x",), ("a-b", "a+b"))
    study = open_study(space, SearchConfig("random", halving=0))
    work(study, space, broken, 8)
    by_text = {f.expression: f for f in ranking(study)}
    assert {f.score for f in by_text.values()} == {0.0}
    assert by_text["x-x"].error == "it is constant" and by_text["x+x"].error.startswith("KeyError")


def test_halving_decides_at_every_rung() -> None:
    """Of three rungs the second one stops children too: Optuna halves at the steps 1, h, h^2."""

    def child(text: str, number: int):
        yield from (0.5, (number * 7 % 11) / 11, 1.0)

    study = open_study(SMALL, SearchConfig("exhaustive", halving=3))
    work(study, SMALL, child, 10_000, rungs=3)
    lengths = {(f.state, len(f.rungs)) for f in ranking(study)}
    assert lengths == {("pruned", 2), ("complete", 3)}, "at the first rung all are equal, so all go on"


def test_settings_and_samplers_that_there_are_not() -> None:
    with pytest.raises(UsageError, match="one of exhaustive, random, tpe, evolution, controller"):
        open_study(SMALL, SearchConfig("grid"))
    with pytest.raises(UsageError, match="exhaustively"):
        open_study(Space(2), SearchConfig("exhaustive"))
    with pytest.raises(UsageError, match="trials = 0"):
        SearchConfig(trials=0)
