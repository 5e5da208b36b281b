"""The samplers: an exhaustive one takes every function once, also around trials that run again."""

from __future__ import annotations

import pytest

from actswap.activations.fingerprint import fingerprint
from actswap.errors import UsageError
from actswap.search.samplers import ask_point, check_sampler, sampler_of
from actswap.search.space import Space
from actswap.search.study import SearchConfig, open_study

SMALL = Space(1, ("x", "sigmoid(x)"), ("a*b", "a+b"))
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def test_a_trial_that_runs_again_takes_the_point_of_the_first() -> None:
    study = open_study(SMALL, SearchConfig("exhaustive", halving=0))
    points = list(SMALL.distinct().values())
    study.enqueue_trial({}, user_attrs={"first": 2})  # its worker died before it had asked for anything
    asked = [ask_point(study.ask(), SMALL) for _ in points]
    assert asked[0] == points[2] and asked[1:] == points[1:]
    last = study.ask()
    assert ask_point(last, SMALL) == points[0], "the point whose number was taken comes last"
    assert study._storage.get_trial(last._trial_id).user_attrs["first"] == 0


def test_a_space_of_constants_has_nothing_to_take() -> None:
    with pytest.raises(UsageError, match="the space is empty"):
        sampler_of("exhaustive", Space(1, ("x",), ("a-b",)), 0)
    assert len({fingerprint(SMALL.expression(p)) for p in SMALL.points()}) == len(SMALL.distinct())


def test_what_can_be_asked_for() -> None:
    check_sampler("controller", Space(4))
    with pytest.raises(UsageError, match="one of exhaustive"):
        check_sampler("bayes", SMALL)
