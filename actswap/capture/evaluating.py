"""Run a model in eval mode without leaving a trace on it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from actswap.capture.eager import eager
from actswap.capture.own_thread import patched
from actswap.capture.randomness import alone, may_draw_from_python, random_kept
from actswap.capture.state import State
from actswap.capture.wrappers import reshard

_locks: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def one_at_a_time(model: nn.Module) -> AbstractContextManager[Any]:
    """Let one thread at a time look at a model: it would take what another does to it for the model's own state."""
    with _lock:
        found: AbstractContextManager[Any] = _locks.setdefault(model, threading.RLock())
        return found


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the training flag of every module at the end of the block.

    >>> model = nn.Sequential(nn.Dropout())
    >>> with modes_kept(model):
    ...     _ = model.eval()
    >>> model.training, model[0].training
    (True, True)
    """
    modes = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        set_modes(modes)


def set_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    """Set the training flag of each module.

    A class with a `train` of its own (torchvision's feature extractors exchange their graph there) is asked first.
    """
    for module, mode in modes:
        if module.training is not mode and type(module).train is not nn.Module.train:
            module.train(mode)
    for module, mode in modes:
        module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode and turn gradients off; afterwards its state and every mode are what they were.

    torch's fused attention is off: it hides the activation, and leaves zeros where the other path computes padding.
    What `torch.compile` wraps runs as it is written. All of this is seen by this thread only, except the modes.

    >>> model = nn.Linear(2, 2)
    >>> with evaluating(model):
    ...     model.training, model(torch.ones(1, 2)).requires_grad
    (False, False)
    >>> model.training
    True
    """
    with one_at_a_time(model), modes_kept(model):
        reshard(model)
        state = State(model)  # outside the modes below, which would look at every tensor that it copies
        try:
            closely = not alone() and may_draw_from_python(model)
            with random_kept(closely), torch.no_grad(), eager(), _as_written(model):
                model.eval()
                yield
        finally:
            reshard(model)
            state.restore()


def _as_written(model: nn.Module) -> AbstractContextManager[None]:
    """Call compiled modules as they were written. `eager` would leave frames of torch between a call and its code."""
    compiled = any(_is_compiled(m) or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())
    return patched(nn.Module, "__call__", _uncompiled) if compiled else nullcontext()


def _uncompiled(call: Callable[..., Any]) -> Callable[..., Any]:
    def plain(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if _is_compiled(module):
            return module.get_submodule("_orig_mod")(*args, **kwargs)
        if getattr(module, "_compiled_call_impl", None) is not None:
            return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
        return call(module, *args, **kwargs)

    return plain


def _is_compiled(module: nn.Module) -> bool:
    """True for what torch.compile returns; its class is not imported, since that takes seconds."""
    return type(module).__name__ == "OptimizedModule"
