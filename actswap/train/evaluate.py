"""Score a network; change its mode or its weights for a while."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from actswap.capture.evaluating import modes_kept
from actswap.train.data import evaluation_batches


def evaluate(model: nn.Module, dataset: Dataset[Any], batch: int = 500) -> float:
    """Return the accuracy of a classifier over a dataset, in this process on the model's device.

    Args:
        model: returns class scores (N, classes).
        dataset: (input, class) pairs.
        batch: samples per forward pass.

    Returns:
        The share of samples whose largest score is that of their class, 0 to 1.

    >>> from torch.utils.data import TensorDataset
    >>> scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    >>> round(evaluate(nn.Identity(), TensorDataset(scores, torch.tensor([0, 1, 1]))), 3)
    0.667
    """
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    device = torch.device("cpu") if first is None else first.device
    right = seen = 0
    with torch.no_grad(), in_mode(model, training=False):
        for x, target in evaluation_batches(dataset, batch, 0, 1, 0):
            right += int((model(x.to(device)).argmax(1) == target.to(device)).sum())
            seen += len(x)
    return right / seen


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put all modules into one mode, and each back into its own mode afterwards."""
    with modes_kept(model):
        model.train(training)
        yield


@contextmanager
def lent_state(model: nn.Module, state: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Give the model another state for a while; None changes nothing."""
    if state is None:
        yield
        return
    own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    try:
        yield
    finally:
        model.load_state_dict(own)
