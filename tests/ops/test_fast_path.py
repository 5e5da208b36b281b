"""The fast path gives what calls through ctypes give, and takes plain calls only."""

import sys
import threading

import pytest
import torch
from operator_cases import CASES, FORMULAS, operator, parameters
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from actswap import ops
from actswap.ops import core, dispatch, fast_path

pytestmark = pytest.mark.skipif(core.FastPath is None, reason="the extension is not built")

LAYOUTS = {
    "planes": ((2, 5, 7, 7), 1, lambda x: x),
    "channels_last": ((2, 5, 3, 4), 1, lambda x: x.to(memory_format=torch.channels_last)),
    "tokens": ((2, 3, 5), -1, lambda x: x),
    "cut": ((2, 6, 5, 5), 1, lambda x: torch.cat([x[:, :3], x], 1)[:, 3:9]),
    "strided": ((2, 6, 5, 10), 1, lambda x: torch.stack([x, x], 4)[..., 0]),
}


def _results(kind, layout, dtype, backend):
    torch.manual_seed(0)
    shape, dim, lay = LAYOUTS[layout]
    name, params = parameters(kind, shape[dim])
    x, g = (lay(torch.randn(shape).to(dtype)) for _ in range(2))
    with ops.backend(backend):
        plain = operator(name)(x, *params, dim)
        leaves = [x.detach().requires_grad_()]
        leaves += [p.clone().requires_grad_(not (name in ("pau", "opau") and i == 2)) if torch.is_tensor(p) else p
                   for i, p in enumerate(params)]  # fmt: skip
        y = operator(name)(*leaves, dim)
        wanted = [a for a in leaves if torch.is_tensor(a) and a.requires_grad]
        return [plain, y.detach(), *torch.autograd.grad(y, wanted, g)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", CASES)
def test_same_bits_and_strides_as_the_long_way(kind, layout):
    for dtype in (torch.float32, torch.bfloat16):
        short, long = (_results(kind, layout, dtype, backend) for backend in ("auto", "native"))
        for a, b in zip(short, long, strict=True):
            assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


def _call():
    name, params = parameters("acon_c", 5)
    return dispatch.fast_path(name), (torch.randn(2, 5, 3), *params, 1)


def test_a_plain_call_is_done_and_a_wanted_gradient_is_said():
    short, args = _call()
    assert torch.is_tensor(short(*args))
    assert short(args[0].requires_grad_(), *args[1:]) is False
    with torch.no_grad():
        assert torch.is_tensor(short(*args))
    tails = list(parameters("pau_a", 5)[1])
    tails[2].requires_grad_()
    assert dispatch.fast_path("pau")(torch.randn(2, 5, 3), *tails, 1) is None, (
        "the kernels give no gradient of the tails"
    )


@pytest.mark.parametrize("mode", [TorchDispatchMode, TorchFunctionMode])
def test_modes_see_the_operator(mode):
    seen = []

    class Watch(mode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

        __torch_function__ = __torch_dispatch__

    short, args = _call()
    with Watch():
        assert short(*args) is None
        operator("acon_c")(*args)
    assert len(seen) == 1 and "acon_c" in seen[0]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # raised by torch.func and by torch.jit
def test_transforms_and_tracing_are_not_plain():
    short, args = _call()
    found = []

    def watched(x):
        found.append(short(x, *args[1:]))
        return operator("acon_c")(x, *args[1:])

    torch.vmap(lambda x: watched(x[None])[0])(args[0])
    torch.func.grad(lambda x: watched(x).sum())(args[0])
    torch.func.jvp(watched, (args[0],), (args[0],))
    torch.jit.trace(watched, (args[0],), check_trace=False)
    assert found and all(each is None for each in found)


class _Sub(torch.Tensor):
    pass


_UNLIKELY = {
    "subclass": lambda x: x.as_subclass(_Sub),
    "float64": lambda x: x.double(),
    "empty": lambda x: x[:0],
    "lazy negation": lambda x: torch.complex(x, x)[:, :1].conj().imag.expand(2, 1, 3),
    "lazy zero": lambda x: torch._efficientzerotensor(*x.shape),
    "meta": lambda x: x.to("meta"),
    "functional": lambda x: torch._to_functional_tensor(x),
}


@pytest.mark.parametrize("what", _UNLIKELY)
def test_unlikely_tensors_go_the_long_way(what):
    x = _UNLIKELY[what](torch.randn(2, 5, 3))
    params = [p.to(x.device) for p in parameters("acon_c", x.shape[1])[1]]
    assert dispatch.fast_path("acon_c")(x, *params, 1) is None
    y = operator("acon_c")(x, *params, 1)
    assert y.shape == x.shape and y.dtype == x.dtype
    if what not in ("meta", "functional"):
        torch.testing.assert_close(torch.as_tensor(y), FORMULAS["acon_c"](x, *params, 1), rtol=1e-6, atol=1e-6)


def test_anything_at_all_as_arguments():
    short, args = _call()
    for strange in ((), (None,), args[:2], (1, *args[1:]), (args[0], "p", *args[2:]), (*args, object())):
        assert short(*strange) is None or torch.is_tensor(short(*strange))


def test_more_kinds_than_are_remembered():
    swish, one = operator("swish"), torch.ones(1)
    for _ in range(2):
        for n in range(1, 400):
            x = torch.randn(n, 2)
            torch.testing.assert_close(swish(x, one, 1), torch.nn.functional.silu(x))


def test_threads_do_not_disturb_each_other():
    swish, one = operator("swish"), torch.ones(1)
    wrong = []

    def work(first):
        for n in range(first, first + 300):
            x = torch.full((n, 3), n / 300)
            y = swish(x, one, 1)
            if y.shape != x.shape or not torch.allclose(y, torch.nn.functional.silu(x)):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(1 + 150 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_leaks():
    short, args = _call()
    leaf = args[0].requires_grad_()

    def step():
        torch.autograd.grad(operator("acon_c")(leaf, *args[1:]).sum(), leaf)
        with torch.no_grad():
            short(*args)
        short(args[0].double(), *args[1:])

    step()
    before = [sys.getrefcount(a) for a in (*args[:4], None)]
    for _ in range(200):
        step()
    after = [sys.getrefcount(a) for a in (*args[:4], None)]
    assert all(abs(a - b) < 20 for a, b in zip(before, after, strict=True))


def test_without_the_extension_there_is_no_short_way(monkeypatch):
    import actswap.ops as package

    monkeypatch.delattr(package, "_fast_path", raising=False)
    monkeypatch.setitem(sys.modules, "actswap.ops._fast_path", None)
    assert fast_path.connect(0, 0) is None
