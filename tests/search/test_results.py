"""What a search has found: the order, and equal functions once."""

from __future__ import annotations

import pytest
from search_children import failing

from actswap.search.results import best_so_far, ranking, tried
from actswap.search.space import Space
from actswap.search.study import SearchConfig, open_study, work

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def test_equal_functions_are_ranked_once_and_counted_as_trials() -> None:
    space = Space(1, ("x", "sin(x)"), ("a*b", "max(a,b)"))
    study = open_study(space, SearchConfig("random", halving=0))
    work(study, space, failing, 30)
    trials, ranked = tried(study), ranking(study)
    assert len(trials) == 30 and [f.trial for f in trials] == list(range(30))
    assert len({f.expression for f in ranked}) == len(ranked) == 6
    assert [f.score for f in ranked] == sorted((f.score for f in ranked), reverse=True)
    for one in trials:
        if one.same_as >= 0:
            assert one.score == trials[one.same_as].score and trials[one.same_as].same_as < 0
    assert best_so_far(trials)[-1] == (30, 0.5)
