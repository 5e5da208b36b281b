"""Quiet is kept in the thread that asked for it, and nothing of it stays."""

from __future__ import annotations

import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import hypothesis.strategies as st
import pytest
from hypothesis import given

from actswap.capture.quiet import quiet


def warns() -> bool:
    """Say whether a warning is an error, as pytest makes it."""
    try:
        warnings.warn("a warning", stacklevel=1)
    except UserWarning:
        return True
    return False


def logged(name: str) -> bool:
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        logger.critical("something")
    finally:
        logger.removeHandler(handler)
    return bool(seen)


@given(st.permutations([0, 0, 1, 1, 2, 2]))
def test_threads_come_and_go_in_any_order(steps: list[int]) -> None:
    before = list(warnings.filters)
    handle = logging.Logger.handle
    pools = [ThreadPoolExecutor(1) for _ in range(3)]
    inside: dict[int, AbstractContextManager[None]] = {}
    for n in steps:
        if n in inside:
            pools[n].submit(inside.pop(n).__exit__, None, None, None).result()
        else:
            inside[n] = quiet("some.library")
            pools[n].submit(inside[n].__enter__).result()
        assert [p.submit(warns).result() for p in pools] == [k not in inside for k in range(3)]
        assert warns()
        assert [p.submit(logged, "some.library.part").result() for p in pools] == [k not in inside for k in range(3)]
        assert all(p.submit(logged, "some.librarything").result() for p in pools)
    assert warnings.filters == before
    assert logging.Logger.handle is handle
    for pool in pools:
        pool.shutdown()


def test_nested_and_after_an_error() -> None:
    before = list(warnings.filters)
    with pytest.raises(ZeroDivisionError), quiet(), quiet():
        assert not warns()
        raise ZeroDivisionError
    assert warns()
    assert warnings.filters == before


def test_filters_of_another_thread_survive() -> None:
    """Somebody adds a filter meanwhile, in the usual way."""
    added, end = threading.Event(), threading.Event()
    before = list(warnings.filters)

    def somebody() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            added.set()
            end.wait(10)

    thread = threading.Thread(target=somebody)
    with quiet():
        thread.start()
        added.wait(10)
    assert not warns()
    end.set()
    thread.join()
    assert [entry for entry in warnings.filters if "InQuietThread" not in str(entry)] == before
    with quiet():
        pass
    assert warnings.filters == before
