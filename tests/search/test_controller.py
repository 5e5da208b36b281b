"""The controller: its log-probabilities, and that PPO moves it towards what is rewarded."""

from __future__ import annotations

import pytest
import torch
from search_children import follows

from actswap.search.controller import Policy
from actswap.search.results import ranking
from actswap.search.space import Space
from actswap.search.study import SearchConfig, open_study, work

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def test_probabilities_of_all_points_sum_to_one() -> None:
    torch.manual_seed(0)
    policy = Policy([3, 2, 4], 8).double()
    every = torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(4))
    with torch.no_grad():
        _, logs, entropy = policy.run(every, len(every))
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert (entropy <= torch.tensor([3.0, 2.0, 4.0]).log().mean() + 1e-12).all()


def test_points_are_drawn_as_often_as_the_policy_says() -> None:
    torch.manual_seed(0)
    policy, count = Policy([3, 2], 8), 20_000
    with torch.no_grad():
        drawn, _, _ = policy.run(None, count, torch.Generator().manual_seed(1))
        every = torch.cartesian_prod(torch.arange(3), torch.arange(2))
        wanted = policy.run(every, len(every))[1].exp()
    for point, p in zip(every, wanted.tolist(), strict=True):
        seen = int((drawn == point).all(1).sum()) / count
        assert abs(seen - p) < 5 * (p * (1 - p) / count) ** 0.5, "five standard deviations of a binomial share"


def test_it_learns_what_is_rewarded() -> None:
    """It finds the one best function, and at the end draws little else: a controller that learns nothing stays even."""
    space = Space(1, ("x", "-x", "sigmoid(x)", "x^3", "exp(x)", "cosh(x)", "beta"), ("a*b", "a-b", "a+b", "a/b"))
    study = open_study(space, SearchConfig("controller", halving=0, seed=0))
    work(study, space, follows("x*sigmoid(x)"), 480)
    scores = [t.values[0] for t in study.get_trials(deepcopy=False)]
    first, last = sum(scores[:60]) / 60, sum(scores[-60:]) / 60
    assert last > 3 * first, (first, last)
    assert ranking(study)[0].expression == "x*sigmoid(x)"
