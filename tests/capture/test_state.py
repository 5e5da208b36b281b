"""Running and tracing leave a model as it was."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
from actswap.capture.state import State
from actswap.errors import CaptureError

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Cache:
    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.length = 0


class Stateful(nn.Module):
    """Keeps state in every way: buffers, attributes, containers, an object, the generator."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.SiLU()
        self.functional = functional
        self.cache: dict[str, Any] = {"deep": {"list": []}}
        self.recent: deque[int] = deque(maxlen=4)
        self.kinds = {"linear"}
        self.object = Cache()
        self.loose = torch.zeros(2)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.loose += 1
        self.cache["last"] = x
        self.cache["deep"]["list"].append(x.shape)
        self.recent.append(len(self.recent))
        self.kinds.add("silu")
        self.object.keys.append(x)
        self.object.length += 1
        self.seen = x + torch.rand(()) * 0
        return self.b(F.silu(self.a(x)) if self.functional else self.act(self.a(x)))


def shown(model: Stateful) -> Any:
    state = {
        k: v for k, v in vars(model).items() if k not in ("_modules", "_parameters", "_buffers", "_actswap_record")
    }
    return copy.deepcopy((state, vars(model.object), model.count.item(), model.loose.tolist()))


def assert_untouched(model: Stateful, before: Any, generator: Tensor) -> None:
    state, held, count, loose = shown(model)
    assert {k: str(v) for k, v in state.items() if k != "object"} == {
        k: str(v) for k, v in before[0].items() if k != "object"
    }
    assert (held, count, loose) == before[1:]
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("functional", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("training", [False, True])
def test_scan_and_convert_leave_no_trace(functional: bool, training: bool) -> None:
    model = Stateful(functional).train(training)
    before, generator = shown(model), torch.get_rng_state()
    actswap.scan(model, X)
    assert_untouched(model, before, generator)
    converted = actswap.convert(model, "acon_c", X, start="morph").model
    assert_untouched(model, before, torch.get_rng_state())
    assert_untouched(converted, before, torch.get_rng_state())  # type: ignore[arg-type]
    converted(X)
    assert converted.count == 1 and "last" in converted.cache  # it still keeps its state when it is run


def test_every_change_is_named() -> None:
    model = Stateful(True)
    state = State(model)
    model(X)
    changed = set(state.changes())
    assert {"count", "loose", "seen", "cache.last", "object.length"} <= changed
    state.restore()
    assert (not State(model).changes() and not state.changes()[:-1]) or set(state.changes()) <= {"count", "loose"}


def test_lazy_modules_have_to_run_once_first() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
    for work in (actswap.scan, lambda model, x: actswap.convert(model, "acon_c", x)):
        with pytest.raises(CaptureError, match=r"0 has no weights yet(.|\n)*LazyLinear(.|\n)*model\(x\)"):
            work(model, X)
    model(X)
    assert len(actswap.scan(model, X)) == 1


class InstallsHooks(nn.Module):
    """As transformers does: the first forward installs hooks, and notes that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        if not getattr(self, "installed", False):
            self.a.register_forward_hook(lambda module, args, out: self.seen.append(out))
            self.installed = True
        self.seen = seen
        y = self.b(torch.relu(self.a(x)))
        (hidden,) = seen
        return y + hidden


def test_hooks_go_with_the_flag_that_says_they_are_there() -> None:
    model, x = InstallsHooks().eval(), torch.randn(2, 4)
    result = actswap.convert(model, "dy_relu_b", x)
    assert not model.a._forward_hooks and not hasattr(model, "installed")
    with torch.no_grad():
        assert torch.equal(result.model(x), model(x))
