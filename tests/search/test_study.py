"""A search: what is tried, what a failure scores, what a dead worker leaves, and that it resumes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from search_children import failing, follows

from actswap.errors import UsageError
from actswap.search.samplers import SAMPLERS
from actswap.search.space import Space
from actswap.search.study import SearchConfig, open_storage, open_study, ranking, take_over_dead, work

SMALL = Space(1, ("x", "sigmoid(x)", "tanh(x)", "sin(x)", "exp(x)", "max(x,0)"), ("a*b", "a+b", "max(a,b)"))
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def search(tmp_path: Path | None, sampler: str, trials: int, child=None, halving: int = 0):
    storage = None if tmp_path is None else open_storage(str(tmp_path / "search.journal"))
    study = open_study(SMALL, SearchConfig(sampler, trials, halving, seed=3), storage)
    work(study, SMALL, child or follows("x*sigmoid(x)"), trials)
    return study


def test_an_exhaustive_search_tries_every_function_once_and_ends(tmp_path: Path) -> None:
    study = search(tmp_path, "exhaustive", 10_000)
    found = ranking(study)
    assert len(found) == len(SMALL.distinct()) and found[0].expression == "x*sigmoid(x)" and found[0].score == 1
    assert len({f.expression for f in found}) == len(found)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_a_function_of_its_seed(sampler: str) -> None:
    tried = [[f.to_dict() for f in ranking(search(None, sampler, 25))] for _ in range(2)]
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
    assert [f.to_dict() for f in parts] == [f.to_dict() for f in whole]


def test_the_trial_of_a_dead_worker_is_run_again(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "search.journal"))
    study = open_study(SMALL, SearchConfig("exhaustive", 10_000, 0), storage)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    trial = study.ask()
    for name, choices in SMALL.components.items():
        trial.suggest_categorical(name, choices)
    trial.set_user_attr("worker", {"name": f"{socket.gethostname()}:{gone.pid}", "time": time.time()})
    alive = study.ask()
    alive.set_user_attr("worker", {"name": f"{socket.gethostname()}:{os.getpid()}", "time": time.time()})
    assert take_over_dead(study) == [trial.number]
    assert take_over_dead(study, time.time() + 1e4) == [alive.number], "it has been silent for too long"
    work(study, SMALL, follows("x*sigmoid(x)"), 10_000)
    assert len(ranking(study)) == len(SMALL.distinct()), "none is lost"
    assert not study.get_trials(states=[TrialState.RUNNING, TrialState.WAITING])


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "search.journal"))
    open_study(SMALL, SearchConfig("random"), storage)
    with pytest.raises(UsageError, match="--name ANOTHER"):
        open_study(Space(1), SearchConfig("random"), storage)


@pytest.mark.parametrize(
    "url", ["nosuchdb://x/y", "sqlite:////nonexistent/folder/x.db", "/nonexistent/folder/x.journal"]
)
def test_a_storage_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        open_storage(url)


def test_settings_and_samplers_that_there_are_not() -> None:
    with pytest.raises(UsageError, match="one of exhaustive, random, tpe, evolution, controller"):
        open_study(SMALL, SearchConfig("grid"))
    with pytest.raises(UsageError, match="exhaustively"):
        open_study(Space(2), SearchConfig("exhaustive"))
    with pytest.raises(UsageError, match="trials = 0"):
        SearchConfig(trials=0)
