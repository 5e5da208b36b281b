"""A patch of one thread is not seen by the others, and nothing of it is left, however the threads end."""

from __future__ import annotations

import linecache
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from torch import nn

from actswap.capture import own_thread
from actswap.capture.own_thread import patched


def adding(n: float) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Return a patch that adds `n` to the result."""
    return lambda below: lambda x: below(x) + n


ROOT = math.sqrt


@given(st.permutations([0, 0, 1, 1, 2, 2]))
def test_threads_come_and_go_in_any_order(steps: list[int]) -> None:
    """Each thread enters at the first mention of its number and leaves at the second."""
    pools = [ThreadPoolExecutor(1) for _ in range(3)]
    inside: dict[int, AbstractContextManager[None]] = {}
    for n in steps:
        if n in inside:
            pools[n].submit(inside.pop(n).__exit__, None, None, None).result()
        else:
            inside[n] = patched(math, "sqrt", adding(n + 1))
            pools[n].submit(inside[n].__enter__).result()
        seen = [pool.submit(lambda: math.sqrt(4.0)).result() for pool in pools]
        assert seen == [2.0 + (k + 1) * (k in inside) for k in range(3)]
        assert math.sqrt(4.0) == 2.0
    assert math.sqrt is ROOT
    for pool in pools:
        pool.shutdown()


def test_nested_patches_call_the_one_below() -> None:
    with patched(math, "sqrt", adding(1)):
        with patched(math, "sqrt", adding(10)):
            assert math.sqrt(4.0) == 13.0
        assert math.sqrt(4.0) == 3.0
    assert math.sqrt is ROOT


def test_an_error_in_one_thread_ends_only_its_own_patch() -> None:
    def fails() -> None:
        with patched(math, "sqrt", adding(1)):
            raise ValueError

    with patched(math, "sqrt", adding(5)):
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError):
            pool.submit(fails).result()
        assert math.sqrt(4.0) == 7.0
    assert math.sqrt is ROOT


def test_a_patch_of_somebody_else_above_survives_and_ours_goes_when_it_can() -> None:
    """Somebody patches the plain way inside our block and takes it back after it."""
    ours = patched(math, "sqrt", adding(1))
    ours.__enter__()
    dispatch = math.sqrt
    math.sqrt = lambda x: dispatch(x) * 100  # type: ignore[assignment]
    ours.__exit__(None, None, None)
    assert math.sqrt(4.0) == 200.0
    with patched(math, "sqrt", adding(1)):  # theirs calls ours, ours must not call theirs again
        assert math.sqrt(4.0) == 201.0
    assert math.sqrt(4.0) == 200.0
    math.sqrt = dispatch
    assert math.sqrt(4.0) == 2.0
    assert math.sqrt is ROOT


@pytest.mark.parametrize("at", range(60))
def test_an_interrupt_at_any_line_leaves_nothing(at: int) -> None:
    """A KeyboardInterrupt arrives between two lines of own_thread.py, `at` lines after the block is entered."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != own_thread.__file__:
            return None
        # Python does not look for interrupts between the body of a `with` and its end, which has the same line.
        if event == "line" and "with _lock" not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            lines += 1
            if lines == at:
                raise KeyboardInterrupt
        return trace

    call = nn.Module.__call__
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with patched(nn.Module, "__call__", lambda below: below):
            nn.Identity()(1)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    assert nn.Module.__call__ is call
    taken: list[bool] = []
    thread = threading.Thread(target=lambda: taken.append(own_thread._lock.acquire(timeout=1)))
    thread.start()
    thread.join()
    assert taken == [True], "the lock is still held"
    own_thread._lock = threading.RLock()
