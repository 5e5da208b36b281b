"""Run a model in eval mode without leaving a trace on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from actswap.capture.island import slow_attention
from actswap.capture.state import State


def is_compiled(module: nn.Module) -> bool:
    """True for what torch.compile returns; its class is not imported, since that takes seconds."""
    return type(module).__name__ == "OptimizedModule"


def _as_written(model: nn.Module) -> AbstractContextManager[Any]:
    """Turn the compiler off, where a part of the model is compiled."""
    compiled = any(is_compiled(m) or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the training flag of every module at the end of the block."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode and turn gradients off; afterwards its state and every mode are what they were.

    torch's fused attention is off: it hides the activation, and leaves zeros where the other path computes padding.
    What `torch.compile` wraps runs as it is written.
    """
    state = State(model)
    with modes_kept(model):
        model.eval()
        try:
            with torch.no_grad(), slow_attention(), _as_written(model):
                yield
        finally:
            state.restore()
