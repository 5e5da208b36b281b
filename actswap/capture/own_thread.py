"""Change a function of the process for one thread: every other thread goes on seeing the original.

Some things exist once per process and can only be watched by exchanging them: `nn.Module.__call__`, a function of
torch, an entry of the warnings filters. `Shared` exchanges one of them for as long as any thread is inside a block,
whatever the order in which the threads come and go; `patched` puts a function there that asks which thread calls it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.RLock()
_MISSING = object()


class Shared:
    """A value that stands in an attribute while any thread is inside `standing()`.

    Args:
        owner: a class or a module.
        name: the attribute.
        value: what stands there meanwhile. It must serve threads that are in no such block as well.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self.owner, self.name, self.value = owner, name, value
        self.original: Any = _MISSING
        self.covered = False  # somebody else's patch stood above this one when its last block ended
        self._blocks: set[object] = set()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Let the value stand for the block; the last block to end puts the original back."""
        block = object()
        try:
            try:
                with _lock:
                    if not self._blocks and self._standing() is not self.value:
                        self.original = self._standing()
                        setattr(self.owner, self.name, self.value)
                    self._blocks.add(block)
                yield
            finally:
                self._end(block)
        finally:
            self._end(block)  # once more: the first may have been interrupted

    def _standing(self) -> Any:
        return vars(self.owner).get(self.name, _MISSING)

    def _end(self, block: object) -> None:
        with _lock:
            self._blocks.discard(block)
            self.restore_unused()

    def restore_unused(self) -> None:
        """Put the original back if no block is left; leave what somebody else has put there since."""
        with _lock:
            if self._blocks:
                return
            self.covered = self._standing() is not self.value
            if self.covered:
                return
            if self.original is _MISSING:
                delattr(self.owner, self.name)
            else:
                setattr(self.owner, self.name, self.original)


class _Function(Shared):
    """A function that calls what the calling thread has put in its place, or the original."""

    def __init__(self, owner: Any, name: str) -> None:
        super().__init__(owner, name, None)
        self.own = threading.local()
        original = vars(owner)[name]

        @functools.wraps(original)
        def dispatch(*args: Any, **kwargs: Any) -> Any:
            # A thread that compiles must see through this, whatever the other threads do.
            if not torch.compiler.is_compiling():
                replacements = getattr(self.own, "replacements", None)
                if replacements:
                    return replacements[-1](*args, **kwargs)
                if self.covered:
                    self.restore_unused()
            return self.original(*args, **kwargs)

        self.value = dispatch


_functions: dict[tuple[Any, str], _Function] = {}


@contextmanager
def patched(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace a function for this thread, for the block.

    Args:
        owner: the class or module that holds it.
        name: its name.
        make: given the function as it stands in this thread, returns the one to call instead.

    >>> import math, threading
    >>> with patched(math, "sqrt", lambda sqrt: lambda x: -sqrt(x)):
    ...     here, there = math.sqrt(4.0), []
    ...     thread = threading.Thread(target=lambda: there.append(math.sqrt(4.0)))
    ...     thread.start(); thread.join()
    >>> here, there, math.sqrt(4.0)
    (-2.0, [2.0], 2.0)
    """
    with _lock:
        function = _functions.get((owner, name))
        if function is None or function.covered:  # what covers it may call it: it must not call that in turn
            function = _functions[owner, name] = _Function(owner, name)
    replacements = function.own.__dict__.setdefault("replacements", [])
    depth = len(replacements)
    with function.standing():
        try:
            replacements.append(make(replacements[-1] if replacements else function.original))
            yield
        finally:
            del replacements[depth:]
