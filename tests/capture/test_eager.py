"""Compiled parts of a model run as they were written while actswap looks, in its own thread only."""

from __future__ import annotations

import subprocess
import sys
import threading

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
from actswap.capture.eager import eager

CALLS: list[str] = []


def _backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
    CALLS.append(threading.current_thread().name)
    return graph.forward


@torch.compile(backend=_backend)
def _act(x: Tensor) -> Tensor:
    return F.gelu(x)


class Compiled(nn.Module):
    """A compiled function, a compiled method and a compiled module around an activation each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.SiLU()
        self.tail = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), backend=_backend)

    @torch.compile(backend=_backend)
    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.act(self.b(_act(self.body(x)))))


def test_calls_inside_compiled_parts_are_seen_and_nothing_is_compiled() -> None:
    CALLS.clear()
    model, x = Compiled(), torch.randn(3, 4)
    sites = actswap.scan(model, x)
    assert sorted(s.source.kind for s in sites) == ["gelu", "relu", "silu", "tanh"]
    result = actswap.convert(model, "acon_c", x, start="morph")
    assert result.report.census is not None and result.report.census.complete
    assert CALLS == []
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x))
    assert CALLS != []  # afterwards it compiles as before


def test_other_threads_go_on_with_what_they_compiled() -> None:
    CALLS.clear()
    x = torch.randn(3, 4)
    with eager():
        other = threading.Thread(target=_act, args=(x,), name="other")
        other.start()
        other.join()
        _act(x)
    assert set(CALLS) == {"other"}


def test_the_compiler_is_not_imported_for_models_without_it() -> None:
    code = (
        "import sys; from actswap.capture.eager import eager\nwith eager(): assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
