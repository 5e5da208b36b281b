"""An operator declared with `define` composes with everything PyTorch does to functions."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from actswap import ops
from actswap.activations.acon_c import AconC
from actswap.activations.dy_relu import DyReLUB
from actswap.activations.meta_acon import MetaAcon
from actswap.activations.pau import PAU
from actswap.errors import UsageError


def _formula(x: Tensor, p: Tensor, dim: int) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = -1
    return x * torch.sigmoid(p.reshape(shape) * x)


probe = ops.define("probe(Tensor x, Tensor p, int dim)", _formula)


def _args(dtype=torch.float64, grad=True, shape=(2, 3, 4)):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, requires_grad=grad)
    p = torch.randn(shape[1], dtype=dtype, requires_grad=grad)
    return x, p


def test_gradients_first_and_second_order():
    x, p = _args()
    for call in (lambda x, p: probe(x, p, 1), lambda x, p: torch.ops.actswap.probe(x, p, 1)):
        assert torch.autograd.gradcheck(call, (x, p))
        assert torch.autograd.gradgradcheck(call, (x, p))


def test_opcheck():
    for grad in (False, True):
        torch.library.opcheck(torch.ops.actswap.probe.default, (*_args(torch.float32, grad), 1))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # raised by torch.func itself
def test_functorch():
    x, p = _args(grad=False)
    assert torch.equal(torch.vmap(lambda a: probe(a, p, 0))(x), probe(x, p, 1))
    with_op = torch.vmap(lambda a: torch.ops.actswap.probe(a, p, 0))(x)
    assert torch.equal(with_op, probe(x, p, 1))
    got = torch.func.grad(lambda a: probe(a, p, 1).sum())(x)
    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(probe(leaf, p, 1).sum(), leaf)
    torch.testing.assert_close(got, want)
    _, tangent = torch.func.jvp(lambda a: probe(a, p, 1), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, want)


class _Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.p = torch.nn.Parameter(torch.randn(3))

    def forward(self, x):
        return probe(x, self.p, 1) + 1


def _nodes(graph):
    return [n for n in graph.nodes if n.op == "call_function" and "actswap" in str(n.target)]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # raised by torch.export itself
def test_export_keeps_one_node():
    net = _Net()
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (torch.randn(2, 3, 4),), dynamic_shapes={"x": {0: batch}})
    assert [str(n.target) for n in _nodes(program.graph)] == ["actswap.probe.default"]
    lowered = program.run_decompositions()
    assert [str(n.target) for n in _nodes(lowered.graph)] == ["actswap.probe.default"]
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(program.module()(x), net(x))


def test_compile_is_one_graph_and_differentiates():
    net = _Net()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 4, requires_grad=True)
    y = compiled(x)
    torch.testing.assert_close(y, net(x))
    got = torch.autograd.grad(y.sum(), (x, net.p))
    want = torch.autograd.grad(net(x).sum(), (x, net.p))
    torch.testing.assert_close(got, want)


def test_fx_trace_keeps_one_node():
    graph = torch.fx.symbolic_trace(_Net()).graph
    assert len(_nodes(graph)) == 1


def test_autocast_keeps_the_dtype_of_x():
    x, p = _args(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = probe(x, p.float(), 1)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_layouts_empty_and_meta():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    p = torch.randn(3)
    y = torch.ops.actswap.probe(x, p, 1)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, _formula(x, p, 1))
    cut = torch.randn(2, 6, 8)[:, ::2, ::2]
    torch.testing.assert_close(probe(cut, p, 1), _formula(cut, p, 1))
    assert probe(torch.empty(0, 3, 4), p, 1).shape == (0, 3, 4)
    meta = probe(torch.empty(2, 3, 4, device="meta"), p.to("meta"), 1)
    assert meta.is_meta and meta.shape == (2, 3, 4)


def test_backend_switch():
    assert ops.current_backend() == "auto"
    with ops.backend("reference"):
        assert ops.current_backend() == "reference"
    assert ops.current_backend() == "auto"
    with pytest.raises(UsageError), ops.backend("native"):
        probe(*_args(grad=False), 1)
    with pytest.raises(UsageError):
        ops.backend("cuda")
    assert ops.current_backend() == "auto"


class _Plain(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("unit", [AconC(4), MetaAcon(4), DyReLUB(4), PAU()], ids=lambda unit: unit.name)
@pytest.mark.parametrize("inside", [(True, False), (False, True)])
def test_a_checkpoint_may_run_again_in_another_mode(unit: Module, inside: tuple[bool, bool]) -> None:
    """Counters of FLOPs and observers run the forward under a dispatch mode, and the second run is outside of it."""
    torch.manual_seed(0)
    x = torch.randn(6, 4)

    def gradients(first: bool, second: bool) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        with _Plain() if first else nullcontext():
            y = checkpoint(unit, leaf, use_reentrant=False)
        with _Plain() if second else nullcontext():
            return list(torch.autograd.grad(y.sum(), [leaf, *unit.parameters()]))

    for a, b in zip(gradients(*inside), gradients(False, False), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # no kernel fits float64, nor this probe
def test_a_backward_pass_under_a_dispatch_mode(dtype):
    x, p = _args(dtype)
    expected = torch.autograd.grad(probe(x, p, 1).sum(), (x, p))
    with _Plain():
        found = torch.autograd.grad(probe(x, p, 1).sum(), (x, p))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
