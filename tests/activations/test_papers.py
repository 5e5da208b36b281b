"""What the papers state: special cases, limits, derivative bounds, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from actswap import functional as AF
from actswap import nn as AN
from actswap.activations.opau import BASES, polynomials
from actswap.activations.plain import evaluate
from actswap.activations.smooth_maximum import smooth_maximum
from actswap.sites import Source


def line(n: int = 4001, width: float = 6.0) -> torch.Tensor:
    return torch.linspace(-width, width, n, dtype=torch.float64).reshape(1, 1, -1)


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


# ACON: smooth maximum (eq. 1) and Table 1


def test_smooth_maximum_limits() -> None:
    """beta -> inf is the maximum, 0 the mean, -inf the minimum."""
    values = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(smooth_maximum(values, 1e9), values.amax(0))
    torch.testing.assert_close(smooth_maximum(values, 0.0), values.mean(0))
    torch.testing.assert_close(smooth_maximum(values, -1e9), values.amin(0))


def conv(x: torch.Tensor) -> torch.Tensor:
    return F.conv1d(x, torch.tensor([[[0.3, -0.2, 0.5]]], dtype=x.dtype), padding=1)


TABLE_1 = {
    "relu": ([lambda x: x, lambda x: 0 * x], lambda x, b: AF.swish(x, one(b), 1), F.relu),
    "prelu": (
        [lambda x: x, lambda x: 0.3 * x],
        lambda x, b: AF.acon_b(x, one(0.3), one(b), 1),
        lambda x: F.prelu(x, one(0.3)),
    ),
    "maxout": (
        [lambda x: 1.2 * x, lambda x: -0.8 * x],
        lambda x, b: AF.acon_c(x, one(1.2), one(-0.8), one(b), 1),
        lambda x: torch.maximum(1.2 * x, -0.8 * x),
    ),
    "frelu": ([lambda x: x, conv], None, lambda x: torch.maximum(x, conv(x))),
}


@pytest.mark.parametrize("row", TABLE_1)
def test_table_1(row: str) -> None:
    """The smooth maximum of the row's two functions is the named unit, and tends to the named maximum."""
    functions, unit, maximum = TABLE_1[row]
    x = line()
    for beta in (1.0, 7.0):
        smooth = smooth_maximum(torch.stack([f(x) for f in functions]), beta)
        if unit is None:
            module = AN.AconFReLU(1, spatial=1, beta=beta).double()
            with torch.no_grad():
                module.weight.copy_(torch.tensor([[[0.3, -0.2, 0.5]]]))
            # The kernel is stored in float32 before .double(): 1e-8 relative.
            torch.testing.assert_close(module(x), smooth, rtol=1e-6, atol=1e-6)
        else:
            torch.testing.assert_close(unit(x, beta), smooth, rtol=1e-12, atol=1e-12)
    far = smooth_maximum(torch.stack([f(x) for f in functions]), 1e8)
    torch.testing.assert_close(far, maximum(x), rtol=0, atol=0.28 / 1e8)


def test_acon_a_is_swish_and_swish_1_is_silu() -> None:
    x = line()
    assert AF.acon_a is AF.swish
    torch.testing.assert_close(AF.swish(x, one(1.0), 1), F.silu(x), rtol=1e-13, atol=1e-13)


def test_acon_c_is_symmetric_in_its_lines_and_linear_at_beta_0() -> None:
    x = line()
    p, q, b = one(1.3), one(-0.4), one(2.0)
    torch.testing.assert_close(AF.acon_c(x, p, q, b, 1), AF.acon_c(x, q, p, b, 1))
    torch.testing.assert_close(AF.acon_c(x, p, q, one(0.0), 1), 0.45 * x)


@pytest.mark.parametrize(("p1", "p2", "beta"), [(1.0, 0.0, 1.0), (1.3, -0.5, 3.0), (0.4, 0.1, 0.7)])
def test_derivative_bounds(p1: float, p2: float, beta: float) -> None:
    """max f' = 1.0998393 p1 - 0.0998393 p2, min f' with them swapped, at beta (p1 - p2) |x| = 2.39936."""
    at = 2.3993572805154676 / (beta * (p1 - p2))
    x = torch.tensor([[[at, -at]]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(AF.acon_c(x, one(p1), one(p2), one(beta), 1).sum(), x)
    upper, lower = 1.0998393 * p1 - 0.0998393 * p2, 1.0998393 * p2 - 0.0998393 * p1
    assert slope.flatten().tolist() == pytest.approx([upper, lower], abs=1e-6)
    x = line(20001, 40 / (beta * (p1 - p2))).requires_grad_()
    (slope,) = torch.autograd.grad(AF.acon_c(x, one(p1), one(p2), one(beta), 1).sum(), x)
    assert slope.max() <= upper + 1e-6 and slope.min() >= lower - 1e-6
    assert slope.flatten()[0].item() == pytest.approx(p2, abs=1e-9)  # f' -> p2 on the left, p1 on the right
    assert slope.flatten()[-1].item() == pytest.approx(p1, abs=1e-9)


def test_acon_gradients_by_hand() -> None:
    """The derivatives of ACON-C written out."""
    x = line(101)
    p1, p2, b = (one(v).requires_grad_() for v in (1.2, -0.3, 2.5))
    x.requires_grad_()
    y = AF.acon_c(x, p1, p2, b, 1)
    found = torch.autograd.grad(y.sum(), [x, p1, p2, b])
    d, s = p1 - p2, torch.sigmoid(b * (p1 - p2) * x)
    z, slope = b * d * x, s * (1 - s)
    by_hand = [
        d * s + b * d**2 * x * slope + p2,
        (x * (s + z * slope)).sum().reshape(1),
        (x * (1 - s - z * slope)).sum().reshape(1),
        (d**2 * x**2 * slope).sum().reshape(1),
    ]
    for one_, other in zip(found, by_hand, strict=True):
        torch.testing.assert_close(one_, other)


def test_sharp_swish_gradients_stay_finite_in_float32() -> None:
    x = torch.linspace(-30, 30, 4001).reshape(1, 1, -1).requires_grad_()
    module = AN.AconC(1, beta=1e6)
    module(x).sum().backward()
    assert x.grad.isfinite().all() and module.log_beta.grad.isfinite().all()


def test_log_beta_trains_where_beta_does_not() -> None:
    """df/d log beta = beta df/d beta: at most 0.4392 / beta instead of 0.4392 / beta^2."""
    beta, n = 100.0, 4001
    x = line(n, 0.1).reshape(1, n)  # as n channels, each with its own beta: the gradient comes out elementwise
    module = AN.Swish(n, beta=beta).double()
    module(x).sum().backward()
    assert module.log_beta.grad.abs().max().item() == pytest.approx(0.4392 / beta, rel=1e-3)


# meta-ACON


def test_meta_acon_paper_forms() -> None:
    """channel: W2 W1 mean; layer: the sum over everything; pixel: each element. All at scale 1."""
    x = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer = AN.MetaAcon(6, space="layer", pool="sum").double()
    beta = torch.sigmoid(x.sum((1, 2, 3), keepdim=True))
    torch.testing.assert_close(layer(x), x * torch.sigmoid(beta * x))
    pixel = AN.MetaAcon(6, space="pixel").double()
    torch.testing.assert_close(pixel(x), x * torch.sigmoid(torch.sigmoid(x) * x))
    channel = AN.MetaAcon(6, pool="sum").double()
    with torch.no_grad():  # it starts at zero, where beta depends on nothing
        channel.fc2.weight.normal_()
        channel.fc2.bias.normal_()
    pooled = x.sum((2, 3))
    beta = torch.sigmoid(channel.fc2(channel.fc1(pooled)))[:, :, None, None]
    assert beta.std() > 0.1
    torch.testing.assert_close(channel(x), x * torch.sigmoid(beta * x))


def test_meta_acon_at_scale_1_cannot_be_sharp() -> None:
    """beta < 1: the distance from ReLU is at least 0.278 whatever G computes."""
    module = AN.MetaAcon(1, space="layer").double()
    module.load_start({"fc2.weight": 0.0, "fc2.bias": 50.0})
    x = line()
    assert (module(x) - F.relu(x)).abs().max() >= 0.2784


# DY-ReLU, Table 1


def dy(x: torch.Tensor, init: list[list[float]], k: int = 2) -> torch.Tensor:
    """DY-ReLU with constant coefficients: rows a_1 .. a_K, b_1 .. b_K of C values."""
    rows, c = torch.tensor(init, dtype=torch.float64), x.shape[1]
    w1, b1 = torch.randn(4, c, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    w2, b2 = torch.zeros(2 * k * c, 4, dtype=torch.float64), torch.zeros(2 * k * c, dtype=torch.float64)
    return AF.dy_relu(x, w1, b1, w2, b2, rows, torch.ones(2 * k, dtype=torch.float64), 1)


def test_dy_relu_static_special_cases() -> None:
    """ReLU a = (1, 0); LeakyReLU a = (1, s); PReLU a = (1, s_c)."""
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    none = [0.0] * 3
    assert torch.equal(dy(x, [[1.0] * 3, none, none, none]), F.relu(x))
    torch.testing.assert_close(dy(x, [[1.0] * 3, [0.1] * 3, none, none]), F.leaky_relu(x, 0.1))
    slopes = [0.1, 0.5, -0.2]
    expected = F.prelu(x, torch.tensor(slopes, dtype=torch.float64))
    torch.testing.assert_close(dy(x, [[1.0] * 3, slopes, none, none]), expected)


def test_dy_relu_is_squeeze_and_excite_with_one_line() -> None:
    """K = 1, b = 0, a = sigmoid(G): init 0.5 and range 0.5 turn 2 sigmoid - 1 into the gate."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    w1, b1 = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((4, 3), (4,)))
    w2, b2 = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 4), (3,)))
    rows = (torch.cat([v, torch.zeros_like(v)]) for v in (w2, b2))
    init = torch.tensor([[0.5] * 3, [0.0] * 3], dtype=torch.float64)
    y = AF.dy_relu(x, w1, b1, *rows, init, torch.tensor([0.5, 0.0], dtype=torch.float64), 1)
    gate = torch.sigmoid(F.relu(x.mean(2) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(y, x * gate[:, :, None])


def test_dy_relu_is_maxout_with_k_lines() -> None:
    """Static coefficients: the maximum of K lines of each channel."""
    g = torch.Generator().manual_seed(3)
    x, lines = torch.randn(2, 3, 9, generator=g, dtype=torch.float64), torch.randn(8, 3, generator=g)
    expected = torch.stack([lines[k][:, None] * x + lines[4 + k][:, None] for k in range(4)]).amax(0)
    torch.testing.assert_close(dy(x, lines.tolist(), 4), expected)


def test_dy_relu_coefficient_ranges() -> None:
    """a_1 in (0, 2), a_2 in (-1, 1), b in (-0.5, 0.5) with the defaults."""
    for z, a1, b in ((50.0, 2.0, 0.5), (-50.0, 0.0, -0.5)):
        module = AN.DyReLUB(1).double()
        module.load_start({"fc2.bias": z})
        x = torch.tensor([[[100.0, -100.0]]], dtype=torch.float64)
        expected = [max(a1 * v + b, (a1 - 1) * v + b) for v in (100.0, -100.0)]
        assert module(x).flatten().tolist() == pytest.approx(expected)


def test_dy_relu_c_temperature() -> None:
    """High temperature spreads the attention evenly; low lets few positions through, and the cap is 1."""
    module = AN.DyReLUC(2, gain=1.0).double()
    module.load_start({"ws": 1.0})
    x = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64) + 0.1
    module.tau = 1e6
    torch.testing.assert_close(module(x), x / 3, rtol=1e-5, atol=0)
    module.tau = 1e-4
    factor = module(x) / x
    assert factor.max().item() == pytest.approx(1.0) and (factor > 1e-6).sum() == 2  # one position, two channels


# PAU and OPAU


EXACT_PADE = {
    "tanh": ([0, 1, 0, 1 / 9, 0, 1 / 945], [0, 4 / 9, 0, 1 / 63], 4e-4),
    "sigmoid": ([1 / 2, 1 / 4, 1 / 18, 1 / 144, 1 / 2016, 1 / 60480], [0, 1 / 9, 0, 1 / 1008], 1e-6),
    "silu": ([0, 1 / 2, 1 / 4, 3 / 56, 1 / 168, 1 / 3360], [0, 3 / 28, 0, 1 / 1680], 2e-4),
}


@pytest.mark.parametrize("kind", EXACT_PADE)
@pytest.mark.parametrize("form", ["A", "B", "unsafe"])
def test_exact_pade_approximants(kind: str, form: str) -> None:
    """The (5, 4) approximants at 0 have even positive denominators: one set serves all forms."""
    a, b, bound = EXACT_PADE[kind]
    x = line(width=3.0)
    tails = torch.tensor([1.0, -3.0, 3.0, 0.0, 0.0], dtype=torch.float64)
    y = AF.pau(x, torch.tensor(a).double(), torch.tensor(b).double(), tails, form, 1)
    # a and b are float32 here: a relative 1e-7 of values up to 3.
    assert (y - evaluate(Source(kind), x)).abs().max() < bound + 1e-6


RELU_A = (
    [
        0.029963801610813613,
        0.6168978366891341,
        2.37534759733888,
        3.0659900472408443,
        1.5246831881677423,
        0.2528070864040542,
    ],
    [-1.191550121923625, 4.4080487697236626, 0.9110357113686055, 0.34884977946384615],
)


def test_published_coefficients_of_relu() -> None:
    """rational_activations, version A, on [-3, 3]: 0.030 off; the negative b_1 counts by its size."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in RELU_A)
    tails = torch.tensor([1.0, -3.0, 3.0, 0.0, 1.0], dtype=torch.float64)
    x = line(width=3.0)
    assert (AF.pau(x, a, b, tails, "A", 1) - F.relu(x)).abs().max().item() == pytest.approx(0.030, abs=5e-4)


def test_without_tails_both_slopes_are_equal_at_infinity() -> None:
    """A (5, 4) rational tends to (a_5 / |b_4|) x on both sides: 0.725 for the published ReLU."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in RELU_A)
    tails = torch.tensor([1.0, -1e9, 1e9, 0.0, 0.0], dtype=torch.float64)
    x = torch.tensor([[[-1e7, 1e7]]], dtype=torch.float64)
    slopes = (AF.pau(x, a, b, tails, "A", 1) / x).flatten().tolist()
    assert slopes == pytest.approx([a[5].item() / b[3].item()] * 2, rel=1e-5)


@pytest.mark.parametrize("form", ["A", "B", "C", "unsafe"])
def test_pau_gradients_by_hand(form: str) -> None:
    """R = P', S = Q': dF/dx = R/Q - P S/Q^2, dF/da_j = x^j/Q, dF/db_k = -(P/Q^2) dQ/db_k."""
    g = torch.Generator().manual_seed(5)
    a, b = torch.randn(6, generator=g).double(), 0.1 * torch.randn(4 + (form == "C"), generator=g).double()
    x = torch.randn(60, generator=g).double().requires_grad_()
    a, b = a.requires_grad_(), b.requires_grad_()
    tails = torch.tensor([1.0, -50.0, 50.0, 0.0, 0.0], dtype=torch.float64)
    y = AF.pau(x.reshape(1, 1, -1), a, b, tails, form, 1).flatten()
    found = torch.autograd.grad(y.sum(), [x, a, b])
    first = 0 if form == "C" else 1
    powers = torch.stack([x**j for j in range(6)])
    ks = torch.arange(first, first + len(b))
    terms = torch.stack([x**k for k in ks.tolist()])
    dterms = torch.stack([k * x ** max(k - 1, 0) for k in ks.tolist()])
    inner = (b[:, None] * terms).sum(0)
    if form == "A":
        q, dq_db = 1 + (b[:, None] * terms).abs().sum(0), torch.sign(b)[:, None] * terms.abs()
        dq_dx = (torch.abs(b)[:, None] * ks[:, None] * x.abs() ** (ks[:, None] - 1)).sum(0) * torch.sign(x)
    elif form == "unsafe":
        q, dq_db, dq_dx = 1 + inner, terms, (b[:, None] * dterms).sum(0)
    else:
        q = (0.1 if form == "C" else 1) + inner.abs()
        dq_db, dq_dx = torch.sign(inner) * terms, torch.sign(inner) * (b[:, None] * dterms).sum(0)
    p = (a[:, None] * powers).sum(0)
    dp = sum(j * a[j] * x ** (j - 1) for j in range(1, 6))
    by_hand = [dp / q - p * dq_dx / q**2, (powers / q).sum(1), (-(p / q**2) * dq_db).sum(1)]
    for one_, other in zip(found, by_hand, strict=True):
        torch.testing.assert_close(one_, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("safe", [True, False])
def test_opau_gradients_of_equations_7_to_9(basis: str, safe: bool) -> None:
    """(7) dG/dx = N'/Q - N Q'/Q^2, (8) dG/dc_i = f_i/Q, (9) dG/dd_j = -(N/Q^2) dQ/dd_j."""
    g = torch.Generator().manual_seed(6)
    c, d = torch.randn(6, generator=g).double(), 0.003 * torch.randn(4, generator=g).double()
    x = torch.randn(60, generator=g).double()
    tails = torch.tensor([1.0, -50.0, 50.0, 0.0, 0.0], dtype=torch.float64)
    leaves = [v.requires_grad_() for v in (x, c, d)]
    y = AF.opau(x.reshape(1, 1, -1), c, d, tails, basis, safe, 1).flatten()
    found = torch.autograd.grad(y.sum(), leaves)
    f = torch.stack(polynomials(basis, x, 5))
    df = torch.stack([torch.autograd.grad(f[j].sum(), x, retain_graph=True)[0] if j else 0 * x for j in range(6)])
    n, dn = (c[:, None] * f).sum(0), (c[:, None] * df).sum(0)
    if safe:
        q = 1 + (d.abs()[:, None] * f[1:5].abs()).sum(0)
        dq_dx, dq_dd = (
            (d.abs()[:, None] * torch.sign(f[1:5]) * df[1:5]).sum(0),
            torch.sign(d)[:, None] * f[1:5].abs(),
        )
    else:
        q, dq_dx, dq_dd = 1 + (d[:, None] * f[1:5]).sum(0), (d[:, None] * df[1:5]).sum(0), f[1:5]
    by_hand = [dn / q - n * dq_dx / q**2, (f / q).sum(1), (-(n / q**2) * dq_dd).sum(1)]
    for one_, other in zip(found, by_hand, strict=True):
        torch.testing.assert_close(one_, other, rtol=1e-9, atol=1e-9)


DERIVATIVES = {
    "chebyshev_t": lambda n, f, u: n * u[n - 1],
    "hermite_prob": lambda n, f, u: n * f[n - 1],
    "hermite_phys": lambda n, f, u: 2 * n * f[n - 1],
    "laguerre": lambda n, f, u: -sum(f[:n]),
}


@pytest.mark.parametrize("basis", DERIVATIVES)
def test_derivatives_of_the_bases(basis: str) -> None:
    """T' = n U_{n-1}, He' = n He_{n-1}, H' = 2 n H_{n-1}, L' = -sum of the lower ones."""
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    f, u = polynomials(basis, x, 6), polynomials("chebyshev_u", x, 6)
    for n in range(1, 7):
        (slope,) = torch.autograd.grad(f[n].sum(), x, retain_graph=True)
        torch.testing.assert_close(slope, DERIVATIVES[basis](n, f, u) + 0 * x)


def test_hp_units_are_safe_hermite_opau() -> None:
    for unit, basis in ((AN.HP1, "hermite_prob"), (AN.HP2, "hermite_phys")):
        module = unit()
        assert isinstance(module, AN.OPAU) and module.basis == basis and module.safe


# Swish


def test_swish_derivatives() -> None:
    """f' = beta f + sigmoid(beta x) (1 - beta f), df/dbeta = x^2 s (1 - s); beta 0 is x / 2."""
    x, beta = line(301).requires_grad_(), one(1.7).requires_grad_()
    y = AF.swish(x, beta, 1)
    dx, dbeta = torch.autograd.grad(y.sum(), [x, beta])
    s = torch.sigmoid(beta * x)
    torch.testing.assert_close(dx, beta * y + s * (1 - beta * y))
    torch.testing.assert_close(dbeta, (x**2 * s * (1 - s)).sum().reshape(1))
    assert torch.equal(AF.swish(x, one(0.0), 1), x / 2)


SEARCHED = {
    "max_sigmoid": lambda x: torch.maximum(x, 1 / (1 + torch.exp(-x))),
    "cos_minus": lambda x: torch.cos(x) - x,
    "min_sin": lambda x: torch.minimum(x, torch.sin(x)),
    "atan2_minus": lambda x: torch.atan(x) ** 2 - x,
    "max_tanh": lambda x: torch.maximum(x, torch.tanh(x)),
    "sinc_plus": lambda x: torch.where(x == 0, 1.0, torch.sin(x) / torch.where(x == 0, 1.0, x)) + x,
    "x_asinh2": lambda x: x * torch.asinh(x) ** 2,
}


@pytest.mark.parametrize("kind", SEARCHED)
def test_functions_found_by_the_search(kind: str) -> None:
    x = line(401)
    torch.testing.assert_close(evaluate(Source(kind), x), SEARCHED[kind](x))
