"""Training data: what a data function returns, and batches that are a pure function of (seed, step).

The order of the images and the augmentation depend on the seed and the step only. So a run that was killed goes on with
the same batches, and two processes together see exactly what one process sees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

Loss = Callable[[Any, Tensor], Tensor]
"""Mean loss over a batch, from the network's output and the target."""


@dataclass(frozen=True)
class Data:
    """What to train on.

    Attributes:
        train: map-style dataset of (input, target) pairs; a `TensorDataset` is indexed without a loader.
        valid: the same, for evaluation after each epoch; None evaluates nothing.
        loss: loss in place of the cross entropy; None is the cross entropy, and only then is there an accuracy.

    >>> from torch.utils.data import TensorDataset
    >>> pairs = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    >>> len(Data(train=pairs, valid=pairs).train)
    8
    """

    train: Dataset[Any]
    valid: Dataset[Any] | None = None
    loss: Loss | None = None


@dataclass(frozen=True)
class _Seeded(Dataset[Any]):
    """Items read with random generators seeded by (seed, epoch, index), in whatever process reads them."""

    dataset: Any
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
        mixed = hash((self.seed, epoch, index)) & 0x7FFFFFFF
        random.seed(mixed)
        np.random.seed(mixed)
        torch.manual_seed(mixed)
        try:
            return self.dataset[index]
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
            torch.set_rng_state(torch_state)


def examples(data: Data, count: int = 2) -> tuple[Any, ...]:
    """Return a few training inputs as a batch, as the arguments of the network."""
    rows = [data.train[index][0] for index in range(min(count, len(data.train)))]  # type: ignore[arg-type]
    return (torch.stack(rows),)


def training_batches(
    dataset: Dataset[Any], batch: int, seed: int, steps: range, rank: int, world: int, workers: int
) -> Iterator[tuple[Any, Tensor]]:
    """Yield this process's share of every step's batch: (input, target), the target a tensor."""
    count, share = len(dataset), batch // world  # type: ignore[arg-type]

    def mine() -> Iterator[tuple[Tensor, int]]:
        cached_epoch, order = -1, torch.empty(0)
        per_epoch = count // batch
        for step in steps:
            epoch, position = divmod(step, per_epoch)
            if epoch != cached_epoch:
                order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
                cached_epoch = epoch
            first = position * batch + rank * share
            yield order[first : first + share], epoch

    if isinstance(dataset, TensorDataset):
        for indices, _ in mine():
            yield dataset.tensors[0][indices], dataset.tensors[1][indices]
        return
    keys = ([(epoch, index) for index in indices.tolist()] for indices, epoch in mine())
    yield from _loaded(dataset, seed, keys, workers)


def evaluation_batches(
    dataset: Dataset[Any], batch: int, rank: int, world: int, workers: int
) -> Iterator[tuple[Any, Tensor]]:
    """Yield every item once, in order, split over the processes."""
    count = len(dataset)  # type: ignore[arg-type]
    mine: Sequence[int] = range(rank, count, world)
    chunks = [mine[i : i + batch] for i in range(0, len(mine), batch)]
    if isinstance(dataset, TensorDataset):
        for chunk in chunks:
            part = slice(chunk[0], chunk[-1] + 1, world)
            yield dataset.tensors[0][part], dataset.tensors[1][part]
        return
    keys = ([(0, index) for index in chunk] for chunk in chunks)
    yield from _loaded(dataset, 0, keys, workers)


def _loaded(
    dataset: Dataset[Any], seed: int, keys: Iterator[list[tuple[int, int]]], workers: int
) -> Iterator[tuple[Any, Tensor]]:
    sampler: Any = keys  # a lazy iterable of key lists: the order of a long run never lies in memory as a whole
    own = torch.Generator()  # the loader draws a seed when it starts; that must not move the run's generator
    yield from DataLoader(
        _Seeded(dataset, seed), batch_sampler=sampler, num_workers=workers, generator=own.manual_seed(seed)
    )


def augment(x: Tensor, names: Sequence[str], seed: int, step: int, rank: int, world: int) -> Tensor:
    """Augment images (N, C, H, W); the random draws are made for the batch of all processes together."""
    for position, name in enumerate(names):
        generator = torch.Generator().manual_seed(hash((seed, step, position)) & 0x7FFFFFFFFFFF)
        draws = torch.rand(world * x.shape[0], 2, generator=generator)[rank * x.shape[0] : (rank + 1) * x.shape[0]]
        x = _AUGMENT[name](x, draws.to(x.device))
    return x


def _flip(x: Tensor, draws: Tensor) -> Tensor:
    return torch.where(draws[:, 0, None, None, None] < 0.5, x.flip(-1), x)


def _shift(x: Tensor, draws: Tensor) -> Tensor:
    rows, columns = x.shape[-2:]
    reach = max(1, rows // 8), max(1, columns // 8)
    padded = torch.nn.functional.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    down = (draws[:, 0] * (2 * reach[0] + 1)).long()
    right = (draws[:, 1] * (2 * reach[1] + 1)).long()
    windows = padded.unfold(2, rows, 1).unfold(3, columns, 1)
    return windows[torch.arange(x.shape[0], device=x.device), :, down, right]


_AUGMENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"flip": _flip, "shift": _shift}
