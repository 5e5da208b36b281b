"""Notice the random numbers that this thread draws, and put the generators back.

The generators of torch and Python are one per process. Rewinding them takes numbers back that other threads have drawn,
who would then draw them again; so they are rewound only if the block itself has drawn.
"""

from __future__ import annotations

import functools
import random
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinMethodType, FrameType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Functions of Python that draw; those of the dispatcher say so themselves.
_COMPOSITES = frozenset(
    ("dropout1d", "dropout2d", "dropout3d", "gumbel_softmax")
    + ("fractional_max_pool2d_with_indices", "fractional_max_pool3d_with_indices")
)

# They draw in train mode only, and runs in train mode draw from generators of their thread.
_TRAINING = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))


@functools.lru_cache(maxsize=4096)
def _may_draw(name: str) -> bool:
    if name in _COMPOSITES:
        return True
    if name in _TRAINING:
        return False
    packet = None if name.startswith("__") else getattr(torch.ops.aten, name, None)
    tag = torch.Tag.nondeterministic_seeded
    return packet is not None and any(tag in getattr(packet, o).tags for o in packet.overloads())


class _Here(threading.local):
    private = False  # this thread draws from generators of its own


here = _Here()


class OwnDraws:
    """Lend this thread a state of its own for each draw from Python's generator, as a profile function.

    This reaches the functions that code has imported by name or stored. Other threads go on with the state of all.

    Args:
        state: of the generator, for the first draw.

    Attributes:
        drew: whether there was one.
    """

    def __init__(self, state: Any) -> None:
        self.own, self.kept, self.drew = state, state, False

    def __call__(self, frame: FrameType, event: str, called: Any) -> None:
        """Exchange the state before one of the two functions that all others draw with, and again after it."""
        if not event.startswith("c_") or getattr(called, "__self__", None) is not PYTHON:
            return
        if called.__name__ in ("random", "getrandbits"):
            if event == "c_call":
                self.drew, self.kept = True, random.getstate()
                random.setstate(self.own)
            else:
                self.own = random.getstate()
                random.setstate(self.kept)


class _Noted(TorchDispatchMode):
    """Whether this thread has called an operator that can draw."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drew = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.drew |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


class Drawn(TorchFunctionMode):
    """What this thread has drawn in a block: `torch` from torch's generator, `python` from Python's.

    As any torch function mode it also turns torch's fused attention off in this thread. That kernel would hide the
    activation, and leave zeros at the padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.torch = self.python = False
        self._torch, self._python = torch.get_rng_state(), random.getstate()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.torch or here.private or not _may_draw(getattr(func, "__name__", "")):
            return func(*args, **(kwargs or {}))
        before, noted = torch.get_rng_state(), _Noted()
        try:
            with noted:
                return func(*args, **(kwargs or {}))
        finally:
            # Operators that could draw do not always; that the state has moved may be another thread's doing.
            self.torch = noted.drew and not torch.equal(before, torch.get_rng_state())

    def rewind(self) -> None:
        """Put the generators back where they stood, if this thread has moved them."""
        if self.torch:
            torch.set_rng_state(self._torch)
        if alone() and random.getstate() != self._python:
            self.python = True
            random.setstate(self._python)


PYTHON: Any = random._inst  # of which the functions of `random` are methods
_NOT_THE_USERS = ("torch", "numpy", "random", "actswap", "builtins")
_users: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def may_draw_from_python(model: nn.Module) -> bool:
    """Return whether the code of a model may draw from the generator of Python.

    True if a module has an attribute, or the file of its class or of a function used there has a name, that stands for
    `random` or for one of the functions.
    """
    kinds = {type(m) for m in model.modules()}
    for kind in (k for k in kinds if k not in _users):
        _users[kind] = any(map(_draws, _names_of(kind)))
    return any(_users[kind] for kind in kinds) or any(_draws(v) for m in model.modules() for v in vars(m).values())


def _draws(value: Any) -> bool:
    value = value.func if isinstance(value, functools.partial) else value
    drawn_from = value.__self__ if isinstance(value, (BuiltinMethodType, MethodType)) else None
    return value is random or drawn_from is PYTHON


def _names_of(kind: type) -> Iterator[Any]:
    """Yield what the names in the files of a class stand for, and those of the functions among them, and so on."""
    waiting: list[dict[str, Any]] = []
    for each in (k for k in kind.__mro__ if not _foreign(k)):  # other libraries put functions of theirs into nn.Module
        functions = [f for f in vars(each).values() if isinstance(f, FunctionType)]
        waiting += [f.__globals__ for f in functions if not _foreign(f)]
    seen: set[int] = set()
    while waiting:
        names = waiting.pop()
        if id(names) not in seen:
            seen.add(id(names))
            for value in list(names.values()):
                yield value
                if isinstance(value, FunctionType) and not _foreign(value):
                    waiting.append(value.__globals__)


def _foreign(part: FunctionType | type) -> bool:
    return (part.__module__ or "").partition(".")[0] in _NOT_THE_USERS


def alone() -> bool:
    """True if no other thread runs: what has changed meanwhile, this one has changed."""
    # torch's own threads (of a backward pass) stay listed as dummies for good.
    return sum(not isinstance(t, threading._DummyThread) for t in threading.enumerate()) == 1


@contextmanager
def random_kept(closely: bool = False) -> Iterator[Drawn]:
    """Undo what the block draws from the random generators of torch (CPU) and Python.

    Args:
        closely: see draws from Python's generator also if other threads may draw from it. That takes a profile
            function, which slows the block down. Without it such draws stay unseen while other threads run.

    >>> before = torch.get_rng_state()
    >>> with random_kept() as drawn:
    ...     x = torch.rand(3)
    >>> drawn.torch, torch.equal(before, torch.get_rng_state())
    (True, True)
    """
    drawn = Drawn()
    own = OwnDraws(random.getstate()) if closely and sys.getprofile() is None and not alone() else None
    try:
        if own is not None:
            sys.setprofile(own)
        with drawn:
            yield drawn
    finally:
        if own is not None:
            sys.setprofile(None)
            drawn.python = own.drew
        drawn.rewind()
