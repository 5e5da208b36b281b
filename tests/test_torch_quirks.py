"""What this project knows about torch and builds on; a test that fails here says that torch has changed."""

from __future__ import annotations

import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

X = torch.tensor([[-1.0, 2.0]])


class Bare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 0
        y.relu_()
        return y


def test_dead_code_elimination_deletes_in_place_calls() -> None:
    """The reason why no pass calls it."""
    graph = fx.symbolic_trace(Bare())
    assert graph(X).tolist() == [[0.0, 2.0]]
    graph.graph.eliminate_dead_code()
    graph.recompile()
    assert graph(X).tolist() == [[-1.0, 2.0]]


class Grows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 0
        z = y
        y *= 3
        return z


def test_tracing_turns_augmented_assignment_into_a_new_tensor() -> None:
    """The reason why the outputs are compared after every isolation: `z` no longer follows `y`."""
    graph = fx.symbolic_trace(Grows())
    assert any(n.target is operator.mul for n in graph.graph.nodes)
    assert Grows()(X).tolist() == [[-3.0, 6.0]]
    assert graph(X).tolist() == [[-1.0, 2.0]]


def test_pickled_graph_modules_lose_in_place_operators() -> None:
    """The reason why bundles hold plans, not GraphModules."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(operator.add, (x, 0))
    graph.call_function(operator.imul, (graph.call_method("view", (y, -1)), 3))
    graph.output(y)
    module = fx.GraphModule(nn.Module(), graph)
    again = pickle.loads(pickle.dumps(module))
    assert module(X).tolist() == [[-3.0, 6.0]]
    assert again(X).tolist() == [[-1.0, 2.0]]


class Drops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=self.training)


def test_tracing_freezes_the_mode() -> None:
    """The reason why islands are traced in both modes."""
    graph = fx.symbolic_trace(Drops().train())
    ones = torch.ones(100)
    assert not torch.equal(graph.eval()(ones), ones)


def test_a_module_made_in_forward_stops_the_plain_tracer() -> None:
    class Fresh(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.ReLU()(x)

    with pytest.raises(NameError, match="not installed as a submodule"):
        fx.symbolic_trace(Fresh())


def test_tracing_writes_to_buffers_and_leaves_constants() -> None:
    """The reason why the tracer of islands makes proxies of buffers, and `trace` puts attributes back."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(1)
            return x + torch.ones(2)

    model = Counts()
    fx.symbolic_trace(model)
    assert float(model.seen) == 1.0
    assert hasattr(model, "_tensor_constant0")


def test_an_in_place_result_is_the_input_itself() -> None:
    """The reason why the tape gives a tensor a new number after an in-place call."""
    x = X.clone()
    assert F.relu(x, inplace=True) is x
    assert x.relu_() is x
    x *= 2
    assert x.data_ptr() == x.mul_(2).data_ptr()


def test_the_fused_kernel_of_the_encoder_goes_past_its_activation() -> None:
    """The reason why models are observed with the fast path off."""

    class Counted(nn.GELU):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    activation = Counted()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=activation).eval()
    x = torch.randn(1, 3, 8)
    with torch.no_grad():
        layer(x)
        assert activation.calls == 0, "the fused kernel computes GELU itself"
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            layer(x)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert activation.calls == 1
    assert layer.activation_relu_or_gelu == 2, "the attribute by which torch's encoder decides"


def test_one_module_is_not_one_site() -> None:
    """A PReLU for each module, as many tools do it, cannot run where a module is called at two widths."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(2, 2), nn.Linear(2, 3), nn.PReLU(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.b(self.act(self.a(x))))

    with pytest.raises(RuntimeError, match=r"num_parameters|parameter numbers|channel size"):
        Block()(X)


def test_meta_acon_of_the_paper_cannot_be_a_relu() -> None:
    """At beta < 1 the gap to ReLU is 0.2785 / beta: the reason for a scale in front of the sigmoid."""
    x = torch.linspace(-20, 20, 200001, dtype=torch.float64)
    for beta in (0.5, 1.0, 10.0, 100.0):
        gap = (torch.relu(x) - x * torch.sigmoid(beta * x)).abs().max().item()
        assert gap == pytest.approx(0.2784645 / beta, rel=1e-3)
