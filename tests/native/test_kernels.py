"""The CPU kernels against the formulas in float64.

Tolerances, as parts of the largest entry, with u = 2^-24. An element takes fewer than 80 float32 operations, among
them an exponential and a reciprocal of error 2.5 u each: 85 u = 5e-6, if all err one way. A parameter's gradient adds
m such terms in float32 (across chunks the sum is float64): in the layouts of the half types m is 33 at most, 2e-6; in
the others it reaches 2048, where errors of either sign leave sqrt(m) u = 3e-6. Terms that cancel raise both; a factor
of two for that gives 2e-5. The arithmetic is the same for every dtype, so this holds for the parameters' gradients
beside a half x too. Outputs of a half type are rounded once more: half an ulp of the largest entry, 2^-9 for bfloat16
and 2^-12 for float16, doubled for the entries just above a power of two.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from operator_cases import CASES, FORMULAS, operator, parameters

import actswap.nn  # noqa: F401 - declares the operators
from actswap import ops
from actswap.errors import UsageError
from actswap.ops import native

pytestmark = pytest.mark.skipif(not native.status().available, reason=native.status().note)

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}
LAYOUTS = {
    "planes": ((2, 5, 7, 7), 1, lambda x: x),
    "channels_last": ((2, 37, 5, 6), 1, lambda x: x.to(memory_format=torch.channels_last)),
    "tokens": ((3, 11, 37), -1, lambda x: x),
    "matrix": ((40, 19), 1, lambda x: x),
    "chunks": ((2, 3, 100, 91), 1, lambda x: x),
    "cut": ((2, 6, 9, 9), 1, lambda x: torch.cat([x[:, :3], x], 1)[:, 3:9]),
    "transposed": ((4, 6, 10), 1, lambda x: x.transpose(0, 2).contiguous().transpose(0, 2)),
}


def _leaves(name, args, dtype):
    # Tails have no gradient; that of the attention's bias is zero, which leaves no scale for an error.
    constant = {"pau": 3, "opau": 3, "dy_relu_c": 8}.get(name, -1)
    return [
        a.detach().to(dtype if i == 0 or dtype == torch.float64 else torch.float32).requires_grad_(i != constant)
        if isinstance(a, torch.Tensor)
        else a
        for i, a in enumerate(args)
    ]


def _value_and_gradients(function, leaves, dim, g):
    y = function(*leaves, dim)
    wanted = [a for a in leaves if isinstance(a, torch.Tensor) and a.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, wanted, g)]


def _errors(kind, shape, dim, layout, dtype):
    torch.manual_seed(len(kind) + sum(shape))
    name, params = parameters(kind, shape[dim])
    x, g = (layout((2 * torch.randn(shape)).to(dtype)) for _ in range(2))
    with ops.backend("native"):
        # Lines that tie at a rounded x share the gradient in one precision and not in another: x keeps its dtype.
        leaves = _leaves(name, [x, *params], dtype)
        leaves[0] = layout(x.detach()).requires_grad_()
        got = _value_and_gradients(operator(name), leaves, dim, g)
    want = _value_and_gradients(FORMULAS[name], _leaves(name, [x, *params], torch.float64), dim, g.double())
    assert got[0].stride() == torch.empty_like(x).stride()
    assert got[0].dtype == got[1].dtype == dtype
    halves = [dtype, dtype, *[torch.float32] * len(got)]
    return [
        # What is 0 but for rounding in float64 (the gradient of the attention's bias) counts in units of 1e-6.
        (float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)), TOLERANCE[t])
        for a, b, t in zip(got, want, halves, strict=False)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", CASES)
def test_float32_agrees_with_the_formula_in_float64(kind, layout):
    shape, dim, lay = LAYOUTS[layout]
    for error, tolerance in _errors(kind, shape, dim, lay, torch.float32):
        assert error < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["planes", "tokens"])
@pytest.mark.parametrize("kind", CASES)
def test_half_types_round_once(kind, layout, dtype):
    shape, dim, lay = LAYOUTS[layout]
    for error, tolerance in _errors(kind, shape, dim, lay, dtype):
        assert error < tolerance


@pytest.mark.parametrize("kind", ["acon_c", "pau_a", "meta_acon", "dy_relu", "dy_relu_c", "opau_he"])
@pytest.mark.parametrize("layout", [None, torch.channels_last])
def test_same_bits_for_any_number_of_threads(kind, layout):
    torch.manual_seed(0)
    shape = (3, 24, 40, 41)
    name, params = parameters(kind, shape[1])
    x, g = torch.randn(shape), torch.randn(shape)
    if layout is not None:
        x, g = x.to(memory_format=layout), g.to(memory_format=layout)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = _leaves(name, [x, *params], torch.float32)
            with ops.backend("native"):
                results.append(_value_and_gradients(operator(name), leaves, 1, g))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", ["planes", "tokens"])
@pytest.mark.parametrize("kind", [kind for kind in CASES if kind.startswith(("pau", "opau", "acon", "swish"))])
def test_an_infinite_input_gives_the_limit(kind, layout):
    shape, dim, lay = LAYOUTS[layout]
    torch.manual_seed(1)
    name, params = parameters(kind, shape[dim])
    x = torch.randn(shape)
    for k, special in enumerate((float("inf"), float("-inf"), float("nan"))):
        x.view(-1)[k::7] = special
    x = lay(x)
    with ops.backend("native"):
        y = operator(name)(x, *params, dim)
    doubled = [p.double() if isinstance(p, torch.Tensor) else p for p in params]
    want = FORMULAS[name](x.double(), *doubled, dim)
    bound = TOLERANCE[torch.float32] * float(want[want.isfinite()].abs().max())
    torch.testing.assert_close(y.double(), want, rtol=0, atol=bound, equal_nan=True)


def test_limits_and_special_values():
    swish = operator("swish")
    one = torch.ones(1)
    big = torch.tensor([-1e38, -90.0, -0.0, 0.0, 90.0, 1e38, float("inf"), float("-inf"), float("nan")] * 5)
    with ops.backend("native"):
        y = swish(big, one, 0)
    assert y[0] == 0 and torch.signbit(y[0]), "silu(-1e38) is -0, not -0.6"
    assert torch.equal(y[4:7], big[4:7]) and y[7] == 0 and torch.isnan(y[8])
    assert y[1].abs() < 1e-36
    tiny = torch.full((40,), 1e-40)
    with ops.backend("native"):
        assert (swish(tiny, one, 0) > 0).all(), "subnormals survive"
    assert (torch.tensor([1e-40]) * 0.5 > 0).all(), "loading the library changed no floating-point mode"


def test_padding_is_not_touched():
    """Masked tails: nothing beyond the elements of a view is written."""
    for n in range(1, 40):
        whole = torch.full((2, n + 16), 7.0)
        x = torch.randn(2, n)
        y = whole[:, :n]
        with ops.backend("native"):
            y.copy_(operator("swish")(x, torch.ones(1), 1))
            z = operator("swish")(x, torch.ones(n), 1)
        torch.testing.assert_close(z, torch.nn.functional.silu(x))
        assert (whole[:, n:] == 7).all()


def test_what_the_kernels_refuse_goes_to_the_formula():
    swish = operator("swish")
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(swish(x, torch.ones(4), 1), torch.nn.functional.silu(x))
    with pytest.raises(UsageError), ops.backend("native"):
        swish(x, torch.ones(4), 1)


def test_gradients_of_frozen_parameters_and_frozen_input():
    name, params = parameters("acon_c", 6)
    op, x = operator(name), torch.randn(2, 6, 5)
    p1 = params[0].clone().requires_grad_()
    got = torch.autograd.grad(op(x, p1, *params[1:], 1).sum(), p1)
    want = torch.autograd.grad(FORMULAS[name](x, p1, *params[1:], 1).sum(), p1)
    torch.testing.assert_close(got, want)
    leaf = x.clone().requires_grad_()
    got = torch.autograd.grad(op(leaf, *params, 1).sum(), leaf)
    torch.testing.assert_close(got, torch.autograd.grad(FORMULAS[name](leaf, *params, 1).sum(), leaf))


_SCRIPT = """
import sys; sys.path[:0] = sys.argv[2:]
import torch
torch.manual_seed(0)
import actswap.nn
from actswap.ops import native
import test_kernels as t
assert native.status().isa == sys.argv[1], native.status()
for kind in ("acon_c", "pau_a_channel", "pau_c", "meta_acon", "dy_relu", "dy_relu_c", "opau_he"):
    for layout in ("planes", "tokens"):
        shape, dim, lay = t.LAYOUTS[layout]
        for dtype in t.TOLERANCE:
            for error, tolerance in t._errors(kind, shape, dim, lay, dtype):
                assert error < tolerance, (kind, layout, dtype, error)
far = torch.tensor([[[float("inf"), -float("inf"), 1e38, -1e38, 0.5] * 9]])
for p1, p2, beta in ((1, 0.25, 1), (1, 0, 0), (0.5, 0.5, 1), (1, -1, 0), (1, 0, -3)):
    y, dx = [], []
    for who in ("native", "reference"):
        with t.ops.backend(who):
            x = far.clone().requires_grad_()
            y.append(t.operator("acon_c")(x, *(torch.tensor([float(v)]) for v in (p1, p2, beta)), 1))
            dx.append(torch.autograd.grad(y[-1].sum(), x)[0])
    torch.testing.assert_close(*y, rtol=1e-6, atol=0), torch.testing.assert_close(*dx, rtol=1e-6, atol=1e-6)
"""


# What the library asks of a processor, in the words of Linux and of the architecture (native/core/core.cpp).
_AVX2 = {"avx2", "fma", "f16c"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
ASKED = {"base": set(), "avx2": _AVX2, "avx512": _AVX512, "avx512bf16": _AVX512 | {"avx512_bf16"}}


def _lacking(isa):
    """Return what the processor lacks for an instruction set: asked of the system, not of the library."""
    if isa != "base" and platform.machine().lower() not in ("x86_64", "amd64"):
        return {"x86"}
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")]
    return ASKED[isa] - set(lines[0].partition(":")[2].split() if lines else [])


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="this system does not list the processor's features")
@pytest.mark.parametrize("isa", ASKED)
def test_every_instruction_set(isa):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "ACTSWAP_ISA": isa}
    lacking = _lacking(isa)
    if lacking:  # then the library must not use it, and takes the best that there is
        ask = "from actswap.ops import core; print(core.status().isa)"
        done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, cwd=root)
        assert done.stdout.strip() in set(ASKED) - {isa}, f"{isa} runs, and the processor lacks {lacking}"
        return
    command = [sys.executable, "-c", _SCRIPT, isa, str(root / "tests/native"), str(root / "benchmarks"), str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
