"""Numbers of a block are the block's own: the same every time, and the generators of the process do not move."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import uniform
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import actswap
from actswap.capture.private_random import private_random
from actswap.capture.randomness import may_draw_from_python

ONES = torch.ones(64)


def draws() -> list[Any]:
    torch_draws = [
        torch.rand(3),
        F.dropout(ONES),
        torch.empty(3).normal_(),
        torch.randperm(9),
        torch.bernoulli(ONES / 2),
    ]
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


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def another_thread() -> Iterator[None]:
    """Python's and numpy's generators are one per process: with another thread, nobody may seed them."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield
    done.set()
    thread.join()


class Drawing(nn.Module):
    def __init__(self, draw: Callable[[], Any]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x * float(self.draw())


class Imported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * uniform(0.5, 1.5)


DRAWING = {
    "a builtin method": lambda: Drawing(random.random),
    "a method in Python": lambda: Drawing(functools.partial(random.choice, (0.5, 1.5, 2.0, 3.0))),
    "imported by name": Imported,
}


@pytest.mark.parametrize("kind", DRAWING)
def test_stored_functions_draw_the_same_numbers_beside_another_thread(kind: str, another_thread: None) -> None:
    model = DRAWING[kind]()
    before = random.getstate(), np.random.get_state()[1].tolist()
    found = []
    for _ in range(2):
        with private_random(of=model):
            found.append([model(X), model(X), model(X)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not all(torch.equal(a, found[0][0]) for a in found[0]), "the numbers of one block differ"
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]


class Deep(nn.Module):
    """Drops its block with a function that it has imported by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.b(y) if uniform(0.0, 1.0) < 0.5 else y


def test_a_model_that_draws_is_converted_and_proved_beside_another_thread(another_thread: None) -> None:
    before = random.getstate()
    report = actswap.convert(Deep(), "acon_c", X, start="morph").report
    assert report.proof is not None and report.proof["gradients"].passed
    assert random.getstate() == before


def test_who_may_draw() -> None:
    assert all(may_draw_from_python(nn.Sequential(make())) for make in DRAWING.values())
    assert not may_draw_from_python(nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.ReLU()))


class Checkpointed(nn.Module):
    """Drops numbers in a part that runs again in the backward pass."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.reentrant = nn.Linear(4, 4), nn.ReLU(), reentrant
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(checkpoint(self.body, self.first(x), use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_checkpointed_draws_the_same_numbers_when_it_runs_again(reentrant: bool) -> None:
    model = Checkpointed(reentrant)
    with private_random():
        model(X).sum().backward()
    again = Checkpointed(reentrant)
    with private_random():
        hidden = again.body[:3](again.first(X))  # without the checkpoint
        again.act(again.body[3](hidden)).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    assert all(torch.equal(p.grad, grads[n]) for n, p in again.named_parameters())


@pytest.mark.parametrize("target", ["acon_c", "meta_acon", "dy_relu_b"])
@pytest.mark.parametrize("start", ["auto", "morph"])
def test_a_checkpointed_part_with_dropout_is_proved(target: str, start: str) -> None:
    """Outside and inside the checkpoint, the targets run in the same way: under the same modes."""
    proof = actswap.convert(Checkpointed(), target, X, start=start).report.proof
    assert proof is not None and all(check.passed for check in proof.checks), [c.said for c in proof.checks]
