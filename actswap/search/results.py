"""What a search has found: every function with its score, the best first, and the best so far over the trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


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
        same_as: an earlier trial of an equal function, whose score this one has; -1 if there is none.
        seconds: time from the start of the trial to its end.
    """

    expression: str
    score: float
    state: str
    rungs: tuple[float, ...]
    trial: int
    error: str = ""
    same_as: int = -1
    seconds: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def reward_of(trial: FrozenTrial) -> float:
    """Return a trial's score; of a pruned one the last that it reported, and 0 for one that failed."""
    if trial.state == TrialState.COMPLETE and trial.values:
        return float(trial.values[0])
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        return float(trial.intermediate_values[max(trial.intermediate_values)])
    return 0.0


def tried(study: Study) -> list[Found]:
    """Return every finished trial in the order of the numbers; those of dead workers, which ran again, are left out."""
    return [_found(t) for t in study.get_trials(deepcopy=False) if is_result(t)]


def is_result(trial: FrozenTrial) -> bool:
    """Return whether a trial has come to an end and has not been run again under another number."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and "expression" in trial.user_attrs


def ranking(study: Study) -> list[Found]:
    """Return every function that was trained, the best first; equal functions once."""
    return sorted((f for f in tried(study) if f.same_as < 0), key=lambda f: (-f.score, f.trial))


def best_so_far(found: Sequence[Found]) -> list[tuple[int, float]]:
    """Return the steps of the best score over the number of trials: (trials, best) at every improvement, and the end.

    >>> best_so_far([Found("x", s, "complete", (), n) for n, s in enumerate((0.5, 0.2, 0.7, 0.6))])
    [(1, 0.5), (3, 0.7), (4, 0.7)]
    """
    steps: list[tuple[int, float]] = []
    for count, one in enumerate(found, 1):
        if not steps or one.score > steps[-1][1]:
            steps.append((count, one.score))
    if steps and steps[-1][0] < len(found):
        steps.append((len(found), steps[-1][1]))
    return steps


def _found(trial: FrozenTrial) -> Found:
    ended, began = trial.datetime_complete, trial.datetime_start
    return Found(
        str(trial.user_attrs["expression"]),
        reward_of(trial),
        "failed" if "error" in trial.user_attrs else trial.state.name.lower(),
        tuple(trial.intermediate_values[k] for k in sorted(trial.intermediate_values)),
        trial.number,
        str(trial.user_attrs.get("error", "")),
        int(trial.user_attrs.get("same_as", -1)),
        (ended - began).total_seconds() if ended and began else 0.0,
    )
