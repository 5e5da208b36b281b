"""The trainable activations inside what PyTorch does to networks: compilers, export, autocast, transforms, DDP."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import actswap.nn as activations
from actswap import ops

ROOT = Path(__file__).parents[2]
MODULES = {
    "swish": activations.Swish,
    "acon_b": activations.AconB,
    "acon_c": activations.AconC,
    "meta_acon": activations.MetaAcon,
    "dy_relu": activations.DyReLUB,
    "dy_relu_c": activations.DyReLUC,
    "pau": activations.PAU,
    "opau": activations.OPAU,
}
CHANNELS = 6


def _module(name):
    torch.manual_seed(0)
    module = MODULES[name](CHANNELS)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def _all():
    """One after another: an activation that is missing or doubled shows in the list of nodes."""
    return torch.nn.Sequential(*map(_module, MODULES))


def _x(dtype=torch.float32, grad=True):
    torch.manual_seed(1)
    return torch.randn(2, CHANNELS, 3, 4, dtype=dtype).requires_grad_(grad)


def _step(function, module, x):
    """The output, and the gradients of the input and of the parameters."""
    y = function(x)
    return [y.detach(), *torch.autograd.grad((y * y).sum(), [x, *module.parameters()])]


def _runs(folder, text, *arguments):
    """The script ends without an error, in a process of its own."""
    script = folder / "script.py"
    script.write_text(text)
    command = [sys.executable, str(script), str(ROOT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def _nodes(graph):
    return [str(n.target) for n in graph.nodes if "actswap" in str(n.target)]


def test_compiled_into_one_graph_in_training_and_in_eval():
    net, graphs = _all(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    for mode in (True, False):
        net.train(mode)
        for a, b in zip(_step(compiled, net, _x()), _step(net, net, _x()), strict=True):
            torch.testing.assert_close(a, b)
        with torch.no_grad():
            torch.testing.assert_close(compiled(_x(grad=False)), net(_x(grad=False)))
    assert graphs and all(_nodes(g.graph) == [f"actswap.{name}.default" for name in MODULES] for g in graphs)


INDUCTOR = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
import actswap.nn as activations

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(6, 6, 1), activations.AconC(6), activations.MetaAcon(6))
compiled = torch.compile(net, fullgraph=True)
x = torch.randn(2, 6, 3, 4, requires_grad=True)

def step(function):
    y = function(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *net.parameters()])]

for a, b in zip(step(compiled), step(net), strict=True):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
net.eval()
with torch.no_grad():
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
"""


def test_inductor_trains_and_evaluates(tmp_path):
    """The whole of a small network, as users compile it; in a process of its own, because inductor imports setuptools,
    which replaces distutils for the whole process and fails where another test's import was stopped by a warning."""
    _runs(tmp_path, INDUCTOR)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # raised by torch.export itself
def test_exported_as_one_node_each():
    net = _all().eval()
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(net, (_x(grad=False),), dynamic_shapes=shapes)
    wanted = [f"actswap.{name}.default" for name in MODULES]
    assert _nodes(program.graph) == wanted
    assert _nodes(program.run_decompositions().graph) == wanted
    x = torch.randn(5, CHANNELS, 3, 4)
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # raised by torch.func itself
@pytest.mark.parametrize("name", MODULES)
def test_vmap_and_per_sample_gradients(name):
    """In float64, where nothing but the transform can differ: kernels and formulas are compared in tests/native."""
    module = _module(name).double()
    x = torch.randn(3, 2, CHANNELS, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(module)(x), torch.stack([module(each) for each in x]))
    parameters = dict(module.named_parameters())

    def loss(parameters, each):
        return torch.func.functional_call(module, parameters, (each,)).square().sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    # A gradient is a sum of at most 144 values times 10 coefficients. In another order it moves by at most 1,440 eps
    # of the sum of their sizes, which is at most 1e4 times the largest gradient: Padé coefficients cancel.
    bound = 1440 * torch.finfo(torch.float64).eps * 1e4
    for k, each in enumerate(x):
        want = torch.autograd.grad(loss(parameters, each), list(parameters.values()))
        largest = max(float(one.abs().max()) for one in want)
        for (key, got), one in zip(found.items(), want, strict=True):
            torch.testing.assert_close(got[k], one, rtol=0, atol=bound * largest, msg=lambda t, key=key: f"{key}: {t}")


@pytest.mark.parametrize("name", ["acon_c", "meta_acon", "pau", "opau", "dy_relu"])
def test_second_derivatives(name):
    """The kernels' gradient is differentiated by the formula: the same in float32 and, by gradgradcheck, in float64."""
    module = _module(name)
    second = []
    for backend in ("auto", "reference"):
        with ops.backend(backend):
            x = _x()
            (first,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
            parameter = next(p for p in module.parameters())
            second.append(torch.autograd.grad(first.square().sum(), (x, parameter)))
    for a, b in zip(*second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    module.double()
    assert torch.autograd.gradgradcheck(module, _x(torch.float64)[:1, :, :1, :2].detach().requires_grad_())


@pytest.mark.parametrize("name", MODULES)
def test_autocast_neither_widens_nor_loses_gradients(name):
    module = _module(name)
    x = _x(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        wide = module(_x())
    assert y.dtype == torch.bfloat16 and wide.dtype == torch.float32
    y.float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_layouts_and_empty_batches(name):
    module = _module(name)
    last = _x(grad=False).to(memory_format=torch.channels_last).requires_grad_()
    y = module(last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(y.sum(), last)  # the gradient of a sum is expanded: no strides at all
    assert dx.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, module(_x()))
    cut = torch.randn(2, CHANNELS, 6, 8)[:, :, ::2, ::2].requires_grad_()
    dense = cut.detach().clone().requires_grad_()
    for a, b in zip(_step(module, module, cut), _step(module, module, dense), strict=True):
        torch.testing.assert_close(a, b)
    nothing = torch.empty(0, CHANNELS, 3, 4, requires_grad=True)
    y = module(nothing)
    assert y.shape == nothing.shape
    found = torch.autograd.grad(y.sum(), [nothing, *module.parameters()], allow_unused=True)
    assert found[0].shape == nothing.shape and all(g is None or not g.any() for g in found[1:])


DDP = """
import sys; sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as dist, torch.multiprocessing as mp
import actswap.nn as activations

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), activations.AconC(4), activations.MetaAcon(4))

def work(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    torch.manual_seed(1)
    x = torch.randn(4, 3, 5, 5)
    one, both = net(), torch.nn.parallel.DistributedDataParallel(net())
    both(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    one(x).square().mean().backward()
    for a, b in zip(both.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.start_processes(work, (sys.argv[2],), nprocs=2, start_method="fork")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_find_the_gradient_of_the_whole_batch(tmp_path):
    _runs(tmp_path, DDP, tmp_path / "store")
