"""Workers that die: signs of life in the storage, and taking over the trials of those who give none."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.study import Study
from optuna.trial import TrialState

_LEASE = 300.0  # seconds after which a worker that says nothing counts as dead
_BEAT = 20.0  # seconds between two signs of life


@contextmanager
def alive(trial: optuna.Trial) -> Iterator[None]:
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

    A worker is dead if its process is gone (on this machine) or if it has been silent for 300 s. The new trial trains
    its child with the seed of the old one.
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
        first = trial.user_attrs.get("first", trial.number)
        study.enqueue_trial(dict(trial.params), user_attrs={"first": first})  # the sampler adds what is missing
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
