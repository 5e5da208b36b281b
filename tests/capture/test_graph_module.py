"""GraphModules: their graphs are edited, so that copies, `recompile` and a switch of modes keep the activations."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import actswap
from actswap.activations.base import Activation

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.silu(self.act(self.a(self.act(self.a(x))))))


class TwoGraphs(fx.GraphModule):
    """A graph for each mode, exchanged by `train`, as torchvision's feature extractors do it."""

    def __init__(self, root: nn.Module) -> None:
        graph = fx.Tracer().trace(root)
        super().__init__(root, graph)
        self.train_graph, self.eval_graph = graph, copy.deepcopy(graph)

    def train(self, mode: bool = True) -> TwoGraphs:
        if hasattr(self, "eval_graph") and mode != self.training:
            self.graph = self.train_graph if mode else self.eval_graph
        return super().train(mode)


def calls(model: nn.Module) -> int:
    seen: list[int] = []
    hooks = [m.register_forward_hook(lambda *a: seen.append(1)) for m in model.modules() if isinstance(m, Activation)]
    model(X)
    for hook in hooks:
        hook.remove()
    return len(seen)


def test_every_call_of_a_traced_network_is_replaced_and_stays() -> None:
    model = fx.symbolic_trace(Net().eval())
    result = actswap.convert(model, "acon_c", X, start="morph")
    assert len(result.report.replaced) == 3 and not result.report.left
    new = result.model
    torch.testing.assert_close(new(X), model(X))
    assert calls(new) == calls(copy.deepcopy(new)) == 3
    new.recompile()
    assert calls(new) == 3
    for network in (new, copy.deepcopy(new)):
        back = actswap.revert(network)
        assert calls(back) == 0 and torch.equal(back(X), model(X))
        assert list(back.state_dict()) == list(model.state_dict())


def test_a_traced_network_inside_another() -> None:
    model = nn.Sequential(fx.symbolic_trace(Net()), nn.ReLU()).eval()
    result = actswap.convert(model, "acon_c", X, start="morph")
    assert len(result.report.replaced) == 4
    torch.testing.assert_close(copy.deepcopy(result.model)(X), model(X))


def test_the_graph_of_the_other_mode_is_edited_too() -> None:
    model = TwoGraphs(Net()).eval()
    expected = model(X)
    new = actswap.convert(model, "acon_c", X, start="morph", inplace=True).model
    for mode in (True, False):
        new.train(mode)
        assert calls(new) == 3
        torch.testing.assert_close(new(X), expected)
    back = actswap.revert(new, inplace=True)
    for mode in (True, False):
        back.train(mode)
        assert calls(back) == 0 and torch.equal(back(X), expected)


def test_scanning_leaves_the_mode_and_its_graph() -> None:
    model = TwoGraphs(Net()).train()
    before = model.graph
    actswap.scan(model, X)
    assert model.training and model.graph is before


@pytest.mark.parametrize("tool", [fx.symbolic_trace, lambda m: fx.GraphModule(m, fx.Tracer().trace(m))])
def test_fx_works_on_a_converted_network_as_on_the_original(tool: Callable[[nn.Module], nn.Module]) -> None:
    new = actswap.convert(Net().eval(), "acon_c", X, start="morph").model
    torch.testing.assert_close(tool(new)(X), new(X))
