"""Run a search: ask the sampler for a function, train a child with it, tell the score; on any number of machines.

All state is in the storage of Optuna: a journal file on one machine, a database or a gRPC proxy on many. Whoever opens
the storage can work on the search, stop, and come back.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState

from actswap.activations.fingerprint import fingerprint
from actswap.activations.grammar import text_of
from actswap.errors import ActswapError, UsageError, first_line
from actswap.search.controller import reward_of
from actswap.search.samplers import ask_point, sampler_of
from actswap.search.space import Space, depends_on_x
from actswap.sites import Progress

_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_LEASE = 300.0  # seconds after which a worker that says nothing counts as dead
_BEAT = 20.0  # seconds between two signs of life
Child = Callable[[str, int], Iterator[float]]
"""Train one child: (expression, trial number) to its validation score after every rung, higher is better."""


@dataclass(frozen=True)
class SearchConfig:
    """How to search.

    Attributes:
        sampler: `exhaustive`, `random`, `tpe`, `evolution` or `controller`.
        trials: how many functions to try; an exhaustive search ends by itself.
        halving: keep the best 1/halving of the children at every rung; 0 trains all to the end.
        seed: of the sampler and the children.
    """

    sampler: str = "controller"
    trials: int = 1000
    halving: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1 or self.halving < 0 or self.halving == 1:
            raise UsageError(
                f"trials = {self.trials}, halving = {self.halving}", why="trials must be positive, halving 0 or above 1"
            )


@dataclass(frozen=True)
class Found:
    """One function that a search has tried.

    Attributes:
        expression: its text.
        score: validation score at its last rung; 0 if the child failed.
        state: `complete`, `pruned` or `failed`.
        rungs: the score at every rung.
        trial: number of the trial.
        error: why the child failed.
    """

    expression: str
    score: float
    state: str
    rungs: tuple[float, ...]
    trial: int
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def open_storage(url: str | None) -> BaseStorage | None:
    """Open what a search keeps its state in.

    Args:
        url: a file (a journal, for processes of one machine), `grpc://HOST:PORT` (a proxy that `optuna.storages.
            run_grpc_proxy_server` serves), any URL of a database, or None for memory.

    Raises:
        UsageError: it cannot be reached.
    """
    if url is None:
        return None
    try:
        if url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.get_all_studies()
            return proxy
        if "://" in url:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        return JournalStorage(JournalFileBackend(url))
    except Exception as error:  # each back end has errors of its own
        raise UsageError(
            f"the storage {url} cannot be opened",
            why=f"{first_line(error)}",
            fix="--storage search.journal, sqlite:///search.db, postgresql://HOST/NAME or grpc://HOST:PORT",
        ) from error


def open_study(space: Space, config: SearchConfig, storage: BaseStorage | None = None, name: str = "search") -> Study:
    """Create a search, or go on with the one of this name.

    Raises:
        UsageError: the storage holds a search of this name over another space or with other settings.
    """
    pruner: BasePruner = NopPruner()
    if config.halving:
        pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=config.halving)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        sampler=sampler_of(config.sampler, space, config.seed),
        pruner=pruner,
        load_if_exists=True,
    )
    text = json.dumps({"space": asdict(space), "search": {**asdict(config), "trials": None}}, sort_keys=True)
    before = study.user_attrs.get("actswap")
    if before is not None and before != text:
        raise UsageError(
            f"the storage holds another search of the name {name!r}",
            why=f"it was made with {before}",
            fix="--name ANOTHER, or the settings of that search",
        )
    study.set_user_attr("actswap", text)
    return study


def work(study: Study, space: Space, child: Child, trials: int, progress: Progress | None = None) -> None:
    """Try functions until the search has `trials` of them, whoever tries them.

    A function that is equal to one tried before gets its score. A child that fails, or whose score is not finite,
    scores 0 and does not stop the search. A trial whose worker died is run again.

    Args:
        study: an open search.
        space: its space.
        child: trains one child.
        trials: how many the search is to have in all.
        progress: called with (trials done, trials in all, the best so far).
    """
    ended = threading.Event()
    study.stop = ended.set  # type: ignore[method-assign]  # optuna's own works inside optimize() only
    while not ended.is_set():
        take_over_dead(study)
        done = [t for t in study.get_trials(deepcopy=False) if t.state in _OVER and "retried" not in t.user_attrs]
        if progress is not None and done:
            best = max(done, key=reward_of)
            progress(len(done), trials, f"best {reward_of(best):.4f} {best.user_attrs.get('expression', '')}")
        if len(done) >= trials:
            return
        trial = study.ask()
        point = ask_point(trial, space)
        if ended.is_set():
            trial.set_user_attr("retried", True)  # there was nothing left to try
            study.tell(trial, state=TrialState.FAIL)
            return
        _try(study, trial, space, point, child)


def _try(study: Study, trial: optuna.Trial, space: Space, point: Any, child: Child) -> None:
    expression = space.expression(point)
    print_of, text = fingerprint(expression), text_of(expression)
    trial.set_user_attr("expression", text)
    trial.set_user_attr("fingerprint", print_of)
    if not depends_on_x(expression):
        trial.set_user_attr("error", "it does not depend on x")
        study.tell(trial, 0.0)
        return
    for earlier in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]):
        if earlier.user_attrs.get("fingerprint") == print_of and earlier.number != trial.number:
            trial.set_user_attr("same_as", earlier.number)
            study.tell(trial, reward_of(earlier))
            return
    score = 0.0
    with _alive(trial):
        try:
            for rung, value in enumerate(child(text, trial.number)):
                score = value if math.isfinite(value) else 0.0
                trial.report(score, rung + 1)
                if trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    return
        except (ActswapError, ArithmeticError, RuntimeError, ValueError) as error:
            trial.set_user_attr("error", f"{first_line(error)}")
            score = 0.0
    study.tell(trial, score)


@contextmanager
def _alive(trial: optuna.Trial) -> Iterator[None]:
    """Give a sign of life in the storage every 20 s while the block runs."""
    ended = threading.Event()
    me = f"{socket.gethostname()}:{os.getpid()}"

    def beat() -> None:
        while True:
            trial.set_user_attr("worker", {"name": me, "time": time.time()})
            if ended.wait(_BEAT):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def take_over_dead(study: Study, now: float | None = None) -> list[int]:
    """Queue the trials of dead workers again; return their numbers.

    A worker is dead if its process is gone (on this machine) or if it has been silent for 300 s.
    """
    now = time.time() if now is None else now
    taken = []
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        worker = trial.user_attrs.get("worker")
        started = trial.datetime_start.timestamp() if trial.datetime_start else now
        silent = now - (worker["time"] if worker else started)
        if silent < _LEASE and not (worker and _is_gone(worker["name"])):
            continue
        try:
            study._storage.set_trial_user_attr(trial._trial_id, "retried", True)
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, RuntimeError):  # another worker was faster
            continue
        if trial.params:
            study.enqueue_trial(dict(trial.params))
        taken.append(trial.number)
    return taken


def _is_gone(worker: str) -> bool:
    """Return whether a worker of this machine has ended."""
    host, _, pid = worker.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def ranking(study: Study) -> list[Found]:
    """Return every function that was trained, the best first; equal functions once."""
    found = [
        Found(
            str(t.user_attrs["expression"]),
            reward_of(t),
            "failed" if "error" in t.user_attrs else t.state.name.lower(),
            tuple(t.intermediate_values[k] for k in sorted(t.intermediate_values)),
            t.number,
            str(t.user_attrs.get("error", "")),
        )
        for t in study.get_trials(deepcopy=False)
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and "expression" in t.user_attrs
        and "same_as" not in t.user_attrs
    ]
    return sorted(found, key=lambda f: (-f.score, f.trial))
