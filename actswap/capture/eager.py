"""Run what torch.compile made as it was written, in this thread.

A compiled function inside a model (`@torch.compile`, RoIAlign of torchvision) hides its calls from an observer, and the
compiler would trace the observer along with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from actswap.capture.own_thread import patched


@contextmanager
def eager() -> Iterator[None]:
    """Compile nothing in this thread for the block, and run nothing that was compiled; other threads go on as before.

    >>> import torch
    >>> double = torch.compile(lambda x: x + x)
    >>> with eager():
    ...     double(torch.ones(2))
    tensor([2., 2.])
    """
    with ExitStack() as stack:

        def stop() -> None:
            from torch._dynamo import eval_frame

            # What a compiled function asks at each call; no callback means the plain function.
            stack.enter_context(patched(eval_frame, "_callback_from_stance", lambda _: lambda callback: None))

        def stop_first(compile_: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                stop()
                return compile_(*args, **kwargs)

            return call

        # Importing the compiler takes seconds, so it is left alone until the model itself asks for it.
        if "torch._dynamo" in sys.modules:
            stop()
        else:
            stack.enter_context(patched(torch, "compile", stop_first))
        yield
