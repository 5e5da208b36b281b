"""Samplers by name: each is a function of its seed, stays in the space, and says what it cannot do."""

from __future__ import annotations

import optuna
import pytest

from actswap.errors import UsageError
from actswap.search.samplers import SAMPLERS, ask_point, sampler_of
from actswap.search.space import Space

SMALL = Space(1, ("x", "sigmoid(x)", "tanh(x)"), ("a*b", "a+b"))
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def asked(name: str, trials: int, seed: int = 0) -> list[dict[str, str]]:
    study = optuna.create_study(sampler=sampler_of(name, SMALL, seed), direction="maximize")
    points: list[dict[str, str]] = []

    def objective(trial: optuna.Trial) -> float:
        points.append(dict(ask_point(trial, SMALL)))
        return float(len(points))

    study.optimize(objective, n_trials=trials)
    return points


@pytest.mark.parametrize("name", SAMPLERS)
def test_points_are_of_the_space_and_follow_the_seed(name: str) -> None:
    points = asked(name, 5, seed=3)
    assert points == asked(name, 5, seed=3)
    for point in points:
        assert {k: v in SMALL.components[k] for k, v in point.items()} == dict.fromkeys(SMALL.components, True)


def test_an_exhaustive_search_takes_every_distinct_function_once_and_ends() -> None:
    points = asked("exhaustive", 1000)
    distinct = [dict(point) for point in SMALL.distinct().values()]
    assert sorted(map(str, points[: len(distinct)])) == sorted(map(str, distinct))
    assert len(points) <= len(distinct) + 1, "it stops the study when there is none left"


def test_a_space_too_large_to_enumerate_and_an_unknown_name_are_refused() -> None:
    large = Space(units=2)
    assert large.size > 1_000_000
    with pytest.raises(UsageError, match="cannot be searched exhaustively"):
        sampler_of("exhaustive", large, 0)
    with pytest.raises(UsageError, match="one of exhaustive, random"):
        sampler_of("guess", SMALL, 0)
