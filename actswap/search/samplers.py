"""The samplers of a search by name; all of them work on one space, Optuna's own and ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from actswap.errors import UsageError
from actswap.search.controller import ControllerSampler
from actswap.search.space import Point, Space

_MOST_POINTS = 1_000_000  # that an exhaustive search enumerates: one unit has 6,250


class ExhaustiveSampler(BaseSampler):
    """Every distinct function of a space once: trial k takes the k-th.

    A trial that is run again after its worker died has its point already; the point whose number it took comes last.

    Args:
        space: a space of at most 1,000,000 points.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.points = list(space.distinct().values())
        if not self.points:
            raise UsageError("the space is empty", why="each of its functions is constant")

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all components: a point is taken as a whole."""
        return {name: CategoricalDistribution(choices) for name, choices in self.space.components.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the trial's point; the search ends when there is none left."""
        index = int(trial.user_attrs.get("first", trial.number))
        if index < len(self.points):
            return dict(self.points[index])
        tried = [t.params for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        for index, point in enumerate(self.points):
            if dict(point) not in tried:
                study._storage.set_trial_user_attr(trial._trial_id, "first", index)  # the seed does not change
                return dict(point)
        study.stop()
        return dict(self.points[-1])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse: an exhaustive search has nothing to sample beside its points."""
        raise UsageError(f"{param_name} is no component of the space")


def _random(space: Space, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(space: Space, seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True)


def _evolution(space: Space, seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[Space, int], BaseSampler]] = {
    "exhaustive": lambda space, seed: ExhaustiveSampler(space),
    "random": _random,
    "tpe": _tpe,
    "evolution": _evolution,
    "controller": lambda space, seed: ControllerSampler(space.components, seed),
}


def check_sampler(name: str, space: Space) -> None:
    """Refuse a sampler that there is not, or that the space is too large for.

    Raises:
        UsageError: with the samplers that would do.
    """
    if name not in SAMPLERS:
        raise UsageError(f"unknown sampler {name!r}", fix=f"one of {', '.join(SAMPLERS)}")
    if name == "exhaustive" and space.size > _MOST_POINTS:
        raise UsageError(
            f"a space of {space.size:,} points cannot be searched exhaustively",
            why=f"at most {_MOST_POINTS:,} points are enumerated",
            fix="sampler = 'controller' (or 'tpe', 'evolution', 'random'), or fewer units or functions",
        )


def sampler_of(name: str, space: Space, seed: int) -> BaseSampler:
    """Return a sampler by its name.

    Raises:
        UsageError: there is none of this name, or the space is too large for it.
    """
    check_sampler(name, space)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return SAMPLERS[name](space, seed)


def ask_point(trial: optuna.Trial, space: Space) -> Point:
    """Return the point that a trial is to try."""
    return {name: str(trial.suggest_categorical(name, choices)) for name, choices in space.components.items()}
