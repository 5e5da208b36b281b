"""Numbers of a block are the block's own: the same every time, and the generators of the process do not move."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from actswap.capture.private_random import private_random

X = torch.ones(64)


def draws() -> list[Any]:
    torch_draws = [torch.rand(3), F.dropout(X), torch.empty(3).normal_(), torch.randperm(9), torch.bernoulli(X / 2)]
    return [*(t.tolist() for t in torch_draws), random.random(), random.sample(range(99), 3), np.random.rand()]


def test_every_block_draws_the_same_numbers() -> None:
    with private_random(3):
        first, second = draws(), draws()
    with private_random(3):
        again = draws()
    with private_random(4):
        other = draws()
    assert first == again != second and other[0] != first[0]


def test_the_generators_of_the_process_stay_where_they_are() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with private_random():
        draws()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_generator_that_is_given_is_used() -> None:
    given = [torch.rand(3, generator=torch.Generator().manual_seed(5))]
    with private_random():
        given.append(torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(*given)


def test_another_thread_draws_its_own_numbers_meanwhile() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with ThreadPoolExecutor(1) as pool, private_random():
        seen = pool.submit(torch.rand, 3).result()
        mine = torch.rand(3)
    # torch keeps one CPU generator for the whole process; the block must not have drawn from it.
    assert torch.equal(seen, expected) and not torch.equal(mine, seen)


def test_blocks_inside_one_another_start_anew() -> None:
    with private_random():
        first = torch.rand(2)
        with private_random():
            assert torch.equal(torch.rand(2), first)
        assert not torch.equal(torch.rand(2), first)
