"""Stop a long computation in Python after some seconds: the search for dynamic sizes has no end of its own."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Stopped(BaseException):
    """Raised inside the block; a BaseException, since libraries catch every Exception."""


class OutOfTimeError(Exception):
    """The block was stopped."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stop this thread's block when its time is over.

    The block is stopped as by Ctrl-C, between two steps of Python code; a long call in C is waited for.

    Args:
        seconds: how long the block may run; infinity for no limit.

    Raises:
        OutOfTimeError: the block was stopped.

    >>> with at_most(60):
    ...     print("done")
    done
    """
    begun, ended, thread = threading.Event(), threading.Event(), threading.get_ident()

    def watch() -> None:
        begun.wait()
        pause = seconds
        while not ended.wait(min(pause, threading.TIMEOUT_MAX)):
            _raise_in(thread, _Stopped)
            pause = 0.5  # then again: a callback whose exceptions are dropped may have got it

    def end() -> None:
        """End the watch, and let an exception arrive that was sent too late.

        It is not taken back by sending none: CPython would then look for it at every call for the rest of the
        process, and never get on under a profile function.
        """
        while True:
            try:
                ended.set()
                watcher.join()
                for _ in range(100):  # it arrives at a jump back
                    pass
                return
            except _Stopped:
                continue

    watcher = threading.Thread(target=watch, name="actswap time limit", daemon=True)
    watcher.start()
    try:
        try:
            begun.set()  # only here the exception is expected
            yield
        finally:
            end()
    except _Stopped:
        end()  # it may have come while the first was at work
        raise OutOfTimeError(f"stopped after {seconds:g} s") from None


def _raise_in(thread: int, exception: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))
