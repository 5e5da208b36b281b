"""Children of a search that need no training: how well a function follows a wanted one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from actswap.activations.fingerprint import probe
from actswap.activations.grammar import parse


def follows(wanted: str) -> Callable[[str, int], Iterator[float]]:
    """Return a child whose score is 1 for the wanted function and falls with the distance to it."""
    goal = probe(parse(wanted))

    def child(text: str, trial: int) -> Iterator[float]:
        distance = float((probe(parse(text)) - goal).abs().mean())
        yield 0.5 / (1 + distance)
        yield 1 / (1 + distance)

    return child


def failing(text: str, trial: int) -> Iterator[float]:
    """A child that fails for sin, is not finite for exp, and scores a half otherwise."""
    if "sin(" in text:
        raise RuntimeError
    yield torch.inf if "exp(" in text else 0.5
