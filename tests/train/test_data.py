"""Batches are shared by processes without loss or repetition."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from actswap.train.data import augment, evaluation_batches, training_batches


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 5))
def test_processes_share_every_batch_and_an_epoch_sees_no_image_twice(count, world, seed):
    batch = max(1, count // 3) // world * world
    if batch == 0:
        return
    dataset = TensorDataset(torch.arange(count).float(), torch.arange(count))
    steps = range(2 * (count // batch))
    alone = [t.tolist() for _, t in training_batches(dataset, batch, seed, steps, 0, 1, 0)]
    shares = [list(training_batches(dataset, batch, seed, steps, rank, world, 0)) for rank in range(world)]
    assert [[index for part in shares for index in part[i][1].tolist()] for i in steps] == alone
    first = [index for indices in alone[: count // batch] for index in indices]
    assert len(set(first)) == len(first) == count // batch * batch
    later = [t.tolist() for _, t in training_batches(dataset, batch, seed, steps[1:], 0, 1, 0)]
    assert later == alone[1:]
    seen = [i for r in range(world) for _, t in evaluation_batches(dataset, 4, r, world, 0) for i in t.tolist()]
    assert sorted(seen) == list(range(count))


def test_augmentation_is_one_draw_per_image_whatever_the_processes():
    x = torch.arange(6 * 16 * 16).float().reshape(6, 1, 16, 16) + 1
    whole = augment(x, ("flip", "shift"), 1, 2, 0, 1)
    halves = [augment(x[3 * r : 3 * r + 3], ("flip", "shift"), 1, 2, r, 2) for r in range(2)]
    assert torch.equal(whole, torch.cat(halves))
    flipped = augment(x, ("flip",), 1, 2, 0, 1)
    for image, result in zip(x, flipped, strict=True):
        assert torch.equal(result, image) or torch.equal(result, image.flip(-1))
    assert not torch.equal(flipped, augment(x, ("flip",), 1, 3, 0, 1))
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    for image, result in zip(padded, augment(x, ("shift",), 1, 2, 0, 1), strict=True):
        windows = [image[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        assert any(torch.equal(result, window) for window in windows)
