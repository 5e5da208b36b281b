"""Tracing in one thread: the graph of torch.fx, and neither other threads nor the model notice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from actswap.capture.own_trace import ThreadTracer, in_mode, kept_calls


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        y = F.relu(self.layer(x)) * self.scale
        return y + y if twice else y


def listing(graph: fx.Graph) -> list[tuple[str, str]]:
    return [(node.op, str(node.target)) for node in graph.nodes]


def test_the_graph_is_the_one_that_fx_makes() -> None:
    model = Net()
    x = torch.randn(2, 3)
    for twice in (True, False):
        ours, theirs = (tracer.trace(model, {"twice": twice}) for tracer in (ThreadTracer(), fx.Tracer()))
        assert listing(ours) == listing(theirs)
        assert torch.equal(fx.GraphModule(model, ours)(x, twice), model(x, twice))


def test_another_thread_runs_the_model_while_it_is_traced() -> None:
    """The tracer waits inside the forward until the other thread has run it."""
    begun, done = threading.Event(), threading.Event()
    tracer = threading.get_ident()

    class Waiting(Net):
        def forward(self, x: Tensor, twice: bool = False) -> Tensor:
            if threading.get_ident() == tracer:
                begun.set()
                assert done.wait(30), "the other thread did not come through"
            return super().forward(x, twice)

    model, x = Waiting(), torch.randn(2, 3)

    def run() -> tuple[Tensor, bool]:
        assert begun.wait(30)
        try:
            return model(x), bool(fx._symbolic_trace.is_fx_tracing())
        finally:
            done.set()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        graph = ThreadTracer().trace(model, {"twice": False})
        y, traced = running.result()
    assert torch.equal(y, Net.forward(model, x)) and not traced
    assert ("call_module", "layer") in listing(graph)


def test_a_mode_is_seen_here_only_and_asking_for_it_is_noticed() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)).eval()
    with in_mode(model, True) as asked, ThreadPoolExecutor(1) as pool:
        assert not asked
        assert model[0].training and asked
        assert pool.submit(lambda: model[0].training).result() is False
    assert not model.training and not model[0].training and not model[1].training


class Masked(nn.Module):
    """Checks a mask as torch's attention layers do: the check asks the mask for its type."""

    def forward(self, mask: Tensor) -> Tensor | None:
        return F._canonical_mask(mask, "mask", None, "other", torch.float32)


def test_checks_of_attention_masks_stay_calls() -> None:
    with kept_calls():
        graph = ThreadTracer().trace(Masked())
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [F._canonical_mask]
    mask = torch.tensor([True, False])
    assert torch.equal(fx.GraphModule(Masked(), graph)(mask), Masked()(mask))
