"""Workers that die: their trials are run again, with the seed that they had."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from search_children import follows

from actswap.search.results import ranking
from actswap.search.space import Space
from actswap.search.storage import open_storage
from actswap.search.study import SearchConfig, open_study, work
from actswap.search.workers import take_over_dead

SMALL = Space(1, ("x", "sigmoid(x)", "tanh(x)"), ("a*b", "a+b"))
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def test_the_trial_of_a_dead_worker_is_run_again(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "search.journal"))
    study = open_study(SMALL, SearchConfig("exhaustive", 10_000, 0), storage)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    trial = study.ask()
    name, choices = next(iter(SMALL.components.items()))
    trial.suggest_categorical(name, choices)  # it was killed before it had asked for all
    trial.set_user_attr("worker", {"name": f"{socket.gethostname()}:{gone.pid}", "time": time.time()})
    alive = study.ask()
    alive.set_user_attr("worker", {"name": f"{socket.gethostname()}:{os.getpid()}", "time": time.time()})
    assert take_over_dead(study) == [trial.number]
    assert take_over_dead(study, time.time() + 1e4) == [alive.number], "it has been silent for too long"
    numbers: list[int] = []

    def child(text: str, number: int):
        numbers.append(number)
        yield from follows("x*sigmoid(x)")(text, number)

    work(study, SMALL, child, 10_000)
    assert numbers[0] == trial.number, "the child of the dead worker's trial has that trial's seed"
    assert len(set(numbers)) == len(numbers)
    assert len(ranking(study)) == len(SMALL.distinct()), "none is lost"
    assert not study.get_trials(states=[TrialState.RUNNING, TrialState.WAITING])
