"""What a block draws is undone; what other threads draw meanwhile is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from actswap.capture.randomness import random_kept

X = torch.ones(3, 4, 5)
DRAWS: dict[str, Callable[[], Any]] = {
    "rand": lambda: torch.rand(2),
    "method": lambda: torch.empty(3).normal_(),
    "like": lambda: torch.randn_like(X),
    "dropout": lambda: F.dropout(X),
    "dropout1d": lambda: F.dropout1d(X),
    "rrelu": lambda: F.rrelu(-X, training=True),
    "gumbel": lambda: F.gumbel_softmax(X),
    "multinomial": lambda: torch.multinomial(torch.ones(4), 2),
    "attention": lambda: F.scaled_dot_product_attention(X, X, X, dropout_p=0.5),
    "distribution": lambda: torch.distributions.Normal(0.0, 1.0).sample(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_of_torch_are_seen_and_undone(draw: Callable[[], Any]) -> None:
    before = torch.get_rng_state()
    with random_kept() as drawn:
        draw()
        assert not torch.equal(before, torch.get_rng_state()), "the case draws"
    assert drawn.torch
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("calm", [lambda: F.dropout(X, training=False), lambda: X @ X.mT, lambda: F.relu(X)])
def test_what_does_not_draw_is_not_taken_for_it(calm: Callable[[], Any]) -> None:
    with random_kept() as drawn:
        calm()
    assert not drawn.torch
    assert not drawn.python


def test_draws_of_python_are_undone() -> None:
    before = random.getstate()
    with random_kept(closely=True) as drawn:  # other tests may have left idle threads
        random.random()
    assert drawn.python
    assert random.getstate() == before


def test_draws_of_another_thread_are_left_to_it() -> None:
    with ThreadPoolExecutor(1) as pool:
        with random_kept() as drawn:
            pool.submit(lambda: (torch.rand(1), random.random())).result()
            X.relu()
            after = torch.get_rng_state(), random.getstate()
        assert not drawn.torch
        assert torch.equal(after[0], torch.get_rng_state())
        assert random.getstate() == after[1]
