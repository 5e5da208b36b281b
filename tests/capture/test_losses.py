"""What a trace, or the replacement of a whole function, would lose."""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from actswap.capture.arguments import Arguments
from actswap.capture.island import trace
from actswap.capture.losses import losses_of
from actswap.errors import CaptureError

KEPT: list[Any] = []
COUNT = 0
SWITCH = True


def pure(x: Tensor) -> Tensor:
    return F.relu(x) * torch.sigmoid(x).view(x.shape[0], -1)


def helped(x: Tensor) -> Tensor:
    parts = [pure(x[:, :2])]
    parts.append(pure(x[:, 2:]))
    return torch.cat(parts, -1)


def block(x: Tensor) -> Tensor:
    with torch.no_grad():
        return F.relu(x)


@torch.no_grad()
def decorated(x: Tensor) -> Tensor:
    return F.relu(x)


def suppressed(x: Tensor) -> Tensor:
    with contextlib.suppress(ValueError):
        x = F.relu(x)
    return x


def switched(x: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    y = F.relu(x)
    torch.set_grad_enabled(before)
    return y


def appended(x: Tensor) -> Tensor:
    KEPT.append(x)
    return F.relu(x)


def counted(x: Tensor) -> Tensor:
    global COUNT
    COUNT += 1
    return F.relu(x)


def printed(x: Tensor) -> Tensor:
    print(x.shape)
    return F.relu(x)


def logged(x: Tensor) -> Tensor:
    logging.getLogger("none").info("here")
    return F.relu(x)


def warned(x: Tensor) -> Tensor:
    warnings.warn("here", stacklevel=2)
    return F.relu(x)


def drawn(x: Tensor) -> Tensor:
    return F.relu(x) * random.random()


def checkpointed(x: Tensor) -> Tensor:
    return checkpoint(F.relu, x, use_reentrant=False)


def indirectly(x: Tensor) -> Tensor:
    return helped(appended(x))


def outer() -> Callable[[Tensor], Tensor]:
    calls = 0

    def counts(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.relu(x)

    return counts


ALWAYS = [block, decorated, suppressed, switched, appended, counted, printed, logged, warned, drawn, checkpointed]
ALWAYS += [indirectly, outer()]


class Switching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale, self.cache = nn.Linear(4, 4), 2.0, {}

    def number(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale

    def a_global(self, x: Tensor) -> Tensor:
        return F.relu(x) if SWITCH else x

    def scripting(self, x: Tensor) -> Tensor:
        return x if torch.jit.is_scripting() else F.relu(x)

    def grad(self, x: Tensor) -> Tensor:
        return F.relu(x) if torch.is_grad_enabled() else F.relu(x) + 0

    def kind(self, x: Tensor) -> Tensor:
        return F.relu(x) if isinstance(x, Tensor) else x

    def of_a_child(self, x: Tensor) -> Tensor:
        return F.relu(x) * self.linear.out_features


READING = ["number", "a_global", "scripting", "grad", "kind", "of_a_child"]


class Runs(nn.Module):
    """A forward that runs one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def traced(module: nn.Module, *args: Any) -> Any:
    return trace(module, Arguments.of(args, {}), frozenset())


@pytest.mark.parametrize("function", [pure, helped], ids=lambda f: f.__name__)
def test_what_only_computes_loses_nothing(function: Callable[[Tensor], Tensor]) -> None:
    assert losses_of(function) == ""
    assert traced(Runs(function), torch.randn(2, 4)).evaluate is not None


@pytest.mark.parametrize("function", ALWAYS, ids=lambda f: f.__name__)
def test_what_does_more_is_named_and_never_runs_under_a_trace(function: Callable[[Tensor], Tensor]) -> None:
    assert losses_of(function)
    KEPT.clear()
    count = COUNT
    with pytest.raises(CaptureError) as caught:
        traced(Runs(function), torch.randn(2, 4))
    assert caught.value.why
    assert count == COUNT and not KEPT, "it ran, with a proxy"


@pytest.mark.parametrize("name", READING)
def test_what_a_forward_reads_would_be_frozen_by_a_trace_only(name: str) -> None:
    kind = type("Reads", (Switching,), {"forward": getattr(Switching, name)})
    module = kind()
    assert losses_of(kind.forward, module) == ""
    with pytest.raises(CaptureError):
        traced(module, torch.randn(2, 4))


def test_an_argument_is_read_but_not_changed() -> None:
    class Collects(nn.Module):
        def forward(self, x: Tensor, found: list[Tensor]) -> Tensor:
            found.append(x)
            return F.relu(x)

    class Reads(nn.Module):
        def forward(self, x: Tensor, found: list[Tensor]) -> Tensor:
            return F.relu(x + found[0])

    found = [torch.zeros(2, 4)]
    assert traced(Reads(), torch.randn(2, 4), found)
    with pytest.raises(CaptureError, match="lose something") as caught:
        traced(Collects(), torch.randn(2, 4), found)
    assert "changes a list" in caught.value.why and len(found) == 1


def test_the_mode_may_be_asked_for() -> None:
    class Drops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(F.relu(x), 0.5, self.training)

    assert traced(Drops(), torch.randn(2, 4)).train is not None


def noted_by_the_collector(phase: str, info: dict[str, int]) -> None:
    """What a library does in the collector's callbacks: it changes objects outside of any forward."""
    global COUNT
    COUNT += 1
    KEPT.append(phase)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.first(x))


class Noting(Plain):
    def forward(self, x: Tensor) -> Tensor:
        noted_by_the_collector("forward", {})
        return F.relu(self.first(x))


def test_what_the_garbage_collector_calls_is_no_part_of_the_forward() -> None:
    """It runs at any moment, here all the time. The same function, called by the forward itself, is refused."""
    before, threshold = len(KEPT), gc.get_threshold()
    gc.callbacks.append(noted_by_the_collector)
    gc.set_threshold(1)
    try:
        traced(Plain(), torch.randn(2, 4))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(noted_by_the_collector)
    assert len(KEPT) > before, "the collector has run during the trace"
    del KEPT[before:]
    with pytest.raises(CaptureError):
        traced(Noting(), torch.randn(2, 4))
    assert len(KEPT) == before
