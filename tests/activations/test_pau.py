"""Padé units in powers of x: published coefficients, gradients by hand, forms, noise and poles."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from activation_modules import error, grid, line, sample

from actswap import activations
from actswap import functional as AF
from actswap import nn as AN
from actswap.activations.base import StartContext
from actswap.activations.plain import evaluate
from actswap.errors import StartError
from actswap.fit.histogram import Histogram
from actswap.sites import Source

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
        # Float64: sums over x of terms that cancel; a wrong term would show in the first digits.
        torch.testing.assert_close(one_, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["A", "B", "unsafe", "C", "D"])
def test_pau_forms(form: str) -> None:
    histogram = Histogram.uniform(-4.0, 4.0)
    spec = activations.get("pau")
    start = spec.start(Source("mish"), StartContext(histogram=histogram, options={"form": form}))
    module = spec.build(4, 1, form=form).eval()
    module.load_start(start.params)
    assert module.form == form and module.poles() == [()]
    x = grid()
    assert error(module, Source("mish"), x).max() <= start.error + 1e-4


def test_pade_tails_are_the_asymptotes() -> None:
    """Ten times beyond the range the error is that of the asymptote, not that of a rational."""
    spec = activations.get("pau")
    for kind in ("relu", "gelu", "tanh", "hardswish"):
        start = spec.start(Source(kind), StartContext(histogram=Histogram.uniform(-5, 5)))
        module = spec.build(None, 1)
        module.load_start(start.params)
        x = torch.tensor([[-50.0, 50.0]])
        edge = error(module, Source(kind), torch.tensor([[-5.0, 5.0]])).max()
        # Beyond the range a line continues the unit from its end: the error there is that of the end.
        assert error(module, Source(kind), x).max() <= edge + 0.02


def test_pade_per_channel_follows_each_slope() -> None:
    source = Source.of("prelu", slope=(0.1, 0.5, 0.1, -0.2))
    spec, options = activations.get("pau"), {"per_channel": True}
    context = StartContext(histogram=Histogram.uniform(-2, 2), options=options)
    start = spec.start(source, context)
    module = spec.build(4, 1, **options)
    module.load_start(start.params)
    x = grid(2.0).float()
    assert error(module, source, x).max() <= start.error + 1e-4
    with pytest.raises(StartError, match="per_channel"):
        spec.start(source, StartContext(histogram=Histogram.uniform(-2, 2), options={"per_channel": False}))


def test_the_form_travels_with_the_coefficients() -> None:
    first, second = AN.PAU(form="B"), AN.PAU(form="A")
    x = sample()
    assert not torch.allclose(first(x), second(x), atol=1e-6)
    second.load_state_dict(first.state_dict())
    assert second.form == "B" and torch.equal(first(x), second(x))


def test_noise_of_form_d_only_in_training() -> None:
    noisy, x = AN.PAU(form="D"), sample()
    assert not torch.equal(noisy(x), noisy(x))
    noisy.eval()
    plain = AN.PAU(form="B")
    assert torch.equal(noisy(x), plain(x))
    noisy.train()
    torch.manual_seed(0)
    noise = torch.stack([noisy(x) for _ in range(200)])
    # 10 % on each of ten coefficients: the mean of 200 draws is near the noiseless value.
    assert (noise.mean(0) - plain(x)).abs().max() < 0.1


def test_poles_of_the_unsafe_form() -> None:
    module = AN.PAU(2, degrees=(1, 2), form="unsafe")
    module.load_start({"b": (0.0, -1.0, 0.0, 1.0), "tails": (2.0, -3.0, 3.0, 0.0, 0.0) * 2})
    assert [[round(x, 6) for x in row] for row in module.poles()] == [[-2.0, 2.0], []]  # 1 - t^2 at x = 2 t
    assert AN.PAU(2).poles() == [(), ()] and AN.HP1().poles() == [()]
    opau = AN.OPAU(degrees=(1, 1), basis="laguerre", safe=False)
    opau.load_start({"d": (1.0,), "tails": (1.0, -3.0, 3.0, 0.0, 0.0)})
    assert opau.poles()[0] == pytest.approx((2.0,))  # 1 + (1 - t) = 0
