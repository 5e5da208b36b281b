"""Hooks that are removed at the end of a block. The activations are the lowest layer that hooks modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks at the end of the block, also those registered before a later registration failed.

    Args:
        handles: what `register_forward_hook` and the like return, best as a generator that registers them.

    >>> from torch import nn
    >>> import torch
    >>> layer, seen = nn.Linear(2, 1), []
    >>> with hooked(m.register_forward_hook(lambda module, args, y: seen.append(y.shape)) for m in [layer]):
    ...     _ = layer(torch.ones(3, 2))
    >>> _ = layer(torch.ones(3, 2))
    >>> seen
    [torch.Size([3, 1])]
    """
    registered: list[RemovableHandle] = []
    try:
        registered.extend(handles)
        yield
    finally:
        for handle in registered:
            handle.remove()
