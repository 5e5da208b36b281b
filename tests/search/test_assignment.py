"""Assignments: the budget holds, the best is found, a failure stops nothing, and a number gives the same bits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from search_toy import made, small

from actswap.errors import UsageError
from actswap.search import assignment as module
from actswap.search.assignment import (
    Assigned,
    Assignment,
    costs_of,
    first_assignments,
    front_of,
    keep_costs,
    open_assignment,
    scan_of,
    tried_assignments,
    work_on_assignment,
)
from actswap.search.site_costs import KEEP, site_costs
from actswap.search.storage import open_storage
from actswap.train import Data, TuneConfig

MODEL, DATA = small(), Data(*made())
SITES = scan_of(MODEL, DATA)
CHOICES = (KEEP, "acon_c", "tanh")
PARAMETERS = site_costs(SITES, CHOICES, "parameters")
TUNE = TuneConfig(epochs=1, batch=24, accelerator="cpu")
SEARCH = Assignment(MODEL, DATA, tuple(SITES), CHOICES, PARAMETERS, TUNE, scanned=SITES)


class Table(Assignment):
    """Losses from a table in place of training: tanh is good at `act`, ACON at `last`, both together best."""

    def train(self, targets, number):
        if targets.get("act") == "acon_c":
            raise RuntimeError("diverged")
        loss = 1.0 - 0.3 * (targets.get("act") == "tanh") - 0.2 * (targets.get("last") == "acon_c")
        return MODEL, {"loss": loss, "score": 1 - loss}


def searched(search: Assignment, trials: int = 100, storage=None, sampler: str = "evolution"):
    study = open_assignment(search, sampler, storage)
    work_on_assignment(study, search, trials)
    return tried_assignments(study)


@pytest.mark.parametrize("sampler", ["evolution", "tpe", "random"])
def test_all_nine_are_tried_once_and_the_front_is_right(sampler: str) -> None:
    tried = searched(replace(Table(**vars(SEARCH))), sampler=sampler)
    assert len(tried) == len({tuple(sorted(one.targets.items())) for one in tried}) == 9
    assert sum("diverged" in one.error for one in tried) == 3
    front = front_of(tried)
    assert [dict(one.targets) for one in front] == [{"act": "tanh"}, {"act": "tanh", "last": "acon_c"}]


def test_the_budget_holds() -> None:
    tried = searched(Table(**{**vars(SEARCH), "budget": 11.0}), trials=4)
    assert len(tried) == 4 and all(one.cost <= 11 for one in tried), "an ACON has 12 parameters"
    with pytest.raises(UsageError, match="the cheapest costs 0"):
        open_assignment(replace(SEARCH, budget=-1.0))


def test_the_first_assignments_follow_the_scores() -> None:
    scores = {(s.name, c): 0.0 for s in SITES for c in CHOICES}
    scores |= {("act", "tanh"): -1.0, ("last", "acon_c"): -5.0}
    found = first_assignments(replace(SEARCH, scores=scores))
    uniform = [{"act": c, "last": c} for c in CHOICES]
    assert found[:3] == uniform and {"act": "tanh", "last": "acon_c"} in found
    assert first_assignments(replace(SEARCH, scores=scores, budget=0.0))[-1] == {"act": "tanh", "last": KEEP}


def test_a_number_gives_the_same_tuning() -> None:
    targets = {"act": "tanh", "last": "acon_c"}
    (first, one), (_, again), (_, other) = (SEARCH.train(targets, n) for n in (1, 1, 2))
    assert one == again and one["loss"] != other["loss"] and math.isfinite(one["loss"])
    assert [type(m).__name__ for m in (first.act, first.last)] == ["Morph", "AconC"] and first.act.t == 1.0
    _, kept = SEARCH.train({}, 1)
    assert math.isfinite(kept["loss"]), "the unchanged network is tuned too"


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "a.journal"))
    search = Table(**vars(SEARCH))
    assert costs_of(storage, "assign") is None
    assert len(searched(search, 4, storage)) == 4
    keep_costs(open_assignment(search, storage=storage), PARAMETERS)
    assert costs_of(storage, "assign") == PARAMETERS
    assert len(searched(search, 6, storage)) == 6
    with pytest.raises(UsageError, match="another search"):
        open_assignment(replace(search, seed=1), storage=storage)


def test_a_failure_is_on_no_front(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Assigned({}, 1.0, 0.5, 1.0, 0)
    assert front_of([good, Assigned({"a": "b"}, module._LOST, math.nan, 0.0, 1, "diverged")]) == [good]
    with pytest.raises(UsageError, match="one of evolution, tpe, random"):
        open_assignment(SEARCH, "grid")
