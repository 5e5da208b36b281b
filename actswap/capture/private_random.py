"""Random numbers of a thread's own, the same in every block; the generators of the process are left to the others."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actswap.capture.own_thread import patched
from actswap.capture.randomness import alone, here


class _Private(TorchDispatchMode):
    """Give every operator that draws a generator of this thread, one for each device."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        device = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
        if device.type == "meta":
            return func(*args, **kwargs)
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        variant = _with_generator(func)
        if variant is not None:
            return variant(*args, **kwargs, generator=self.generators[device])
        # The few without: drawn from torch's own generator, which lends itself for the one call.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=self.generators[device], device=device)))
            return func(*args, **kwargs)


@functools.lru_cache(1024)
def _with_generator(func: Any) -> Any:
    """Return the overload of an operator that takes a generator beside the same arguments; None if there is none."""
    names = {a.name for a in func._schema.arguments}
    if "generator" in names:
        return func
    overloads = (getattr(func.overloadpacket, name) for name in func.overloadpacket.overloads())
    return next((o for o in overloads if {a.name for a in o._schema.arguments} == names | {"generator"}), None)


def _instead(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    return function


_STATE = {"seed", "getstate", "setstate", "get_state", "set_state"}


@contextmanager
def private_random(seed: int = 0) -> Iterator[None]:
    """Let this thread draw the same numbers in every such block: from torch, Python's `random` and `numpy.random`.

    Args:
        seed: of torch's numbers.

    >>> before = torch.get_rng_state()
    >>> with private_random():
    ...     first = torch.rand(2), torch.nn.functional.dropout(torch.ones(9)), random.random(), np.random.rand()
    >>> with private_random():
    ...     again = torch.rand(2), torch.nn.functional.dropout(torch.ones(9)), random.random(), np.random.rand()
    >>> torch.equal(first[0], again[0]), torch.equal(first[1], again[1]), first[2:] == again[2:]
    (True, True, True)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    python, arrays, outer = random.getstate(), np.random.get_state(), here.private
    seeded = alone()  # then functions that were imported by name draw the same numbers too
    own: tuple[tuple[Any, Any], ...] = ((random, random.Random(0)), (np.random, np.random.RandomState(0)))
    try:
        if seeded:
            random.seed(0)
            np.random.seed(0)
        with ExitStack() as stack:
            for module, generator in own:
                for name in dir(generator):
                    if not name.startswith("_") and name in vars(module) and name not in _STATE:
                        drawing = getattr(generator, name)
                        stack.enter_context(patched(module, name, functools.partial(_instead, drawing)))
            stack.enter_context(_Private(seed))
            here.private = True
            yield
    finally:
        here.private = outer
        if seeded:
            random.setstate(python)
            np.random.set_state(arrays)
