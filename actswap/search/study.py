"""Run a search: ask the sampler for a function, train a child with it, tell the score; on any number of machines.

All state is in the storage of Optuna. Whoever opens the storage can work on the search, stop, and come back.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from actswap.activations.fingerprint import fingerprint
from actswap.activations.grammar import text_of
from actswap.errors import UsageError, first_line
from actswap.search.results import is_result, reward_of
from actswap.search.samplers import ask_point, sampler_of
from actswap.search.space import Space, is_activation
from actswap.search.workers import alive, take_over_dead
from actswap.sites import Progress

Child = Callable[[str, int], Iterator[float]]
"""Train one child: (expression, number) to its validation score after every rung, higher is better."""


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
        if self.trials < 1 or self.halving < 0 or self.halving == 1 or self.seed < 0:
            raise UsageError(
                f"trials = {self.trials}, halving = {self.halving}, seed = {self.seed}",
                why="trials must be positive, halving 0 or above 1, seed not negative",
            )


def open_study(
    space: Space,
    config: SearchConfig,
    storage: BaseStorage | None = None,
    name: str = "search",
    more: Mapping[str, Any] | None = None,
) -> Study:
    """Create a search, or go on with the one of this name.

    Args:
        space: the functions.
        config: how they are searched. The number of trials may differ from the one that the search began with.
        storage: from `open_storage`; None is this process's memory.
        name: of the search in the storage.
        more: whatever else makes it this search, as plain JSON data; workers read it back with `document_of`.

    Raises:
        UsageError: the storage holds a search of this name over another space or with other settings.
    """
    pruner: BasePruner = NopPruner()
    if config.halving:
        pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=config.halving)
    sampler = sampler_of(config.sampler, space, config.seed)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", sampler=sampler, pruner=pruner, load_if_exists=True
    )
    document = {**(more or {}), "space": asdict(space), "search": asdict(config)}
    before = study.user_attrs.get("actswap")
    if before is None:
        study.set_user_attr("actswap", json.dumps(document, sort_keys=True))
        return study
    held = json.loads(before)
    if changed := _differences(held, json.loads(json.dumps(document))):
        raise UsageError(
            f"the storage holds another search of the name {name!r}",
            why="; ".join(changed),
            fix="--name ANOTHER, or the settings of that search",
        )
    if held["search"]["trials"] != config.trials:  # workers that come later read it
        held["search"]["trials"] = config.trials
        study.set_user_attr("actswap", json.dumps(held, sort_keys=True))
    return study


def document_of(storage: BaseStorage, name: str) -> dict[str, Any]:
    """Return what a search of the storage was created with, as plain JSON data.

    Raises:
        UsageError: the storage holds no search of this name.
    """
    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise UsageError(
            f"the storage holds no search of the name {name!r}",
            why=f"it holds {', '.join(names) or 'none'}",
            fix=f"--name {names[0]}" if names else "actswap search SPACE.toml --storage URL creates one",
        )
    text = optuna.load_study(study_name=name, storage=storage).user_attrs.get("actswap")
    if not isinstance(text, str):
        raise UsageError(f"{name!r} is no search of actswap", why="another program created it", fix="--name ANOTHER")
    found: dict[str, Any] = json.loads(text)
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """Name the settings that differ; how many trials there are to be, and where the data lie, may differ."""
    found: list[str] = []
    for key in sorted({*before, *now}):
        place = f"{where}{key}"
        a, b = before.get(key), now.get(key)
        if place in ("search.trials", "data.source", "title") or a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{place}.")
        else:
            found.append(f"{place} was {_short(a)}, is {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def work(
    study: Study, space: Space, child: Child, trials: int, progress: Progress | None = None, rungs: int | None = None
) -> None:
    """Try functions until the search has `trials` of them, whoever tries them.

    A function that is equal to one tried before gets its score. A child that fails, or whose score is not finite,
    scores 0 and does not stop the search. A trial whose worker died is run again.

    Args:
        study: an open search.
        space: its space.
        child: trains one child.
        trials: how many the search is to have in all.
        progress: called with (trials done, trials in all, the best so far).
        rungs: how many scores a child yields; after the last one there is nothing to stop. None: it is not known.
    """
    ended = threading.Event()
    study.stop = ended.set  # type: ignore[method-assign]  # optuna's own works inside optimize() only
    me = f"{socket.gethostname()}:{os.getpid()}"
    while not ended.is_set():
        take_over_dead(study)
        done = [t for t in study.get_trials(deepcopy=False) if is_result(t)]
        if progress is not None and done:
            best = max(done, key=reward_of)
            progress(len(done), trials, f"best {reward_of(best):.4f} {best.user_attrs.get('expression', '')}")
        if len(done) >= trials:
            return
        trial = study.ask()
        trial.set_user_attr("worker", {"name": me, "time": time.time()})
        point = ask_point(trial, space)
        if ended.is_set():
            trial.set_user_attr("retried", True)  # there was nothing left to try
            study.tell(trial, state=TrialState.FAIL)
            return
        _try(study, trial, space, point, child, rungs)


def _try(study: Study, trial: optuna.Trial, space: Space, point: Any, child: Child, rungs: int | None) -> None:
    expression = space.expression(point)
    print_of, text = fingerprint(expression), text_of(expression)
    trial.set_user_attr("expression", text)
    trial.set_user_attr("fingerprint", print_of)
    if not is_activation(expression):
        trial.set_user_attr("error", "it is constant")
        study.tell(trial, 0.0)
        return
    for earlier in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]):
        if earlier.user_attrs.get("fingerprint") == print_of and earlier.number != trial.number:
            trial.set_user_attr("same_as", earlier.number)
            study.tell(trial, reward_of(earlier))
            return
    number = int(study._storage.get_trial(trial._trial_id).user_attrs.get("first", trial.number))
    score, halving = 0.0, getattr(study.pruner, "_reduction_factor", 1)
    with alive(trial):
        try:
            for rung, value in enumerate(child(text, number)):
                score = value if math.isfinite(value) else 0.0
                # Optuna halves at the steps 1, h, h^2, ...
                trial.report(score, halving**rung if halving > 1 else rung + 1)
                if rung + 1 != rungs and trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    return
        except Exception as error:  # whatever a function does to its child, the search goes on
            trial.set_user_attr("error", first_line(error))
            score = 0.0
    study.tell(trial, score)
