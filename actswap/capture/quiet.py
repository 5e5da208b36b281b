"""Silence warnings and log lines of libraries, in this thread only.

`warnings.catch_warnings` exchanges the filters of the whole process: two threads that overlap can leave each other's
filters behind. Here one filter is added that matches in the threads that asked for it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from actswap.capture.own_thread import patched


class _Here(threading.local):
    depth = 0


_here = _Here()
_lock = threading.RLock()
_blocks: set[object] = set()


class _InQuietThread:
    """Stands for the pattern of a filter: matches any text in a thread that asked for quiet."""

    def match(self, text: str) -> bool:
        """Say whether a warning is meant."""
        return _here.depth > 0


_FILTER: Any = ("ignore", _InQuietThread(), Warning, None, 0)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Ignore the warnings that this thread causes, and what it logs to these loggers and those below them.

    >>> with quiet("torch.onnx"):
    ...     warnings.warn("nobody sees this")
    ...     logging.getLogger("torch.onnx.exporter").critical("nor this")
    """

    def handled(handle: Callable[..., None]) -> Callable[..., None]:
        def dropping(logger: logging.Logger, record: logging.LogRecord) -> None:
            if not any(f"{logger.name}.".startswith(f"{name}.") for name in loggers):
                handle(logger, record)

        return dropping

    block, before = object(), _here.depth
    try:
        with _lock:
            _blocks.add(block)
            if not any(entry is _FILTER for entry in warnings.filters):
                warnings.filters.insert(0, _FILTER)  # type: ignore[attr-defined]
        _here.depth = before + 1
        with patched(logging.Logger, "handle", handled):
            yield
    finally:
        _here.depth = before
        with _lock:
            _blocks.discard(block)
            if not _blocks:
                warnings.filters[:] = [e for e in warnings.filters if e is not _FILTER]  # type: ignore[index]
