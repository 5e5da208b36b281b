"""Padé units: the coordinates they train in, their tails, and the checkpoints they read."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from activation_cases import BY_NAME, LINE
from activation_modules import error, grid
from torch import Tensor

from actswap import activations
from actswap import functional as F
from actswap import nn as AN
from actswap.activations.base import StartContext
from actswap.activations.opau import BASES, opau_formula
from actswap.activations.pau import pau_formula
from actswap.activations.rational import RationalActivation
from actswap.errors import UsageError
from actswap.fit.histogram import Histogram
from actswap.sites import Source

UNITS: dict[str, Callable[..., RationalActivation]] = {
    **{f"pau_{form}": lambda channels=None, form=form, **o: AN.PAU(channels, form=form, **o) for form in "ABCD"},
    **{f"opau_{basis}": lambda channels=None, basis=basis, **o: AN.OPAU(channels, basis=basis, **o) for basis in BASES},
}
EVERY_UNIT = pytest.mark.parametrize("name", UNITS)


def gradients(unit: RationalActivation, x: Tensor) -> Tensor:
    """The gradient of y at every x (N,) with respect to the coordinates: (N, k)."""
    rows = unit.coordinates.detach().repeat(len(x), 1).requires_grad_()
    v = unit.centre + torch.asinh(rows / unit.radius) @ unit.mix.T
    top, bottom = v.split((unit.degrees[0] + 1, unit.terms), -1)
    basis, form = unit.basis_and_form
    if basis == "monomial":
        y = pau_formula(x[None], top, bottom, unit.tails, form, 1)
    else:
        y = opau_formula(x[None], top, bottom, unit.tails, basis, form == "A", 1)
    return torch.autograd.grad(y.sum(), rows)[0]


@pytest.mark.parametrize("source", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("name", ["pau", "hp1", "hp2", "opau"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_mean_squared_gradient_is_well_conditioned(name: str, source: str, per_channel: bool) -> None:
    """The issue's bounds: condition number 100, largest eigenvalue 10."""
    values = np.random.default_rng(0).laplace(0.2, 0.8, 5000)
    options = {"per_channel": per_channel}
    spec, context = activations.get(name), StartContext(histogram=Histogram.of(values), options=options)
    unit = spec.build(3, 1, **options).double()
    assert isinstance(unit, RationalActivation)
    unit.load_start(spec.start(Source(source), context).params)
    assert unit.coordinates.shape == ((3, 10) if per_channel else (10,))
    if per_channel:  # every channel has the same start: one of them stands for all
        one = spec.build(None, 1).double()
        assert isinstance(one, RationalActivation)
        for buffer in ("centre", "mix", "radius", "tails"):
            row = getattr(unit, buffer)
            assert torch.equal(row[0], row[2])
            getattr(one, buffer).copy_(row[0])
        if name == "pau":
            one.form_code.copy_(unit.form_code)
            one.read_constants()
        unit = one
    size = np.linalg.svd(gradients(unit, torch.from_numpy(values)).numpy(), compute_uv=False) ** 2 / len(values)
    assert size[0] <= 10 and size[0] <= 100 * size[-1]


@pytest.mark.parametrize("source", ["silu", "tanh"])
def test_coordinates_below_the_rounding_of_float32_do_not_train(source: str) -> None:
    """A fit of degrees (7, 6) on a narrow range is exact to 1e-13: some directions are below what `mix` resolves."""
    values = np.random.default_rng(0).normal(0.2, 0.3, 5000)
    options = {"degrees": (7, 6)}
    spec = activations.get("pau")
    unit = spec.build(None, 1, **options)
    assert isinstance(unit, RationalActivation)
    unit.load_start(spec.start(Source(source), StartContext(histogram=Histogram.of(values), options=options)).params)
    trains = unit.mix.ne(0.0).any(dim=0)
    # Degrees (5, 4), which these contain, have 10 coordinates, and all of them train.
    assert 10 <= int(trains.sum()) < 14
    unit(torch.randn(200, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert unit.coordinates.grad is not None
    assert torch.equal(unit.coordinates.grad.ne(0.0), trains)
    found = gradients(unit.double(), torch.from_numpy(values))[:, trains].numpy()
    size = np.linalg.svd(found, compute_uv=False) ** 2 / len(values)
    assert size[0] <= 10 and size[0] <= 100 * size[-1]


@EVERY_UNIT
def test_coordinates_begin_at_the_coefficients_and_move_them(name: str) -> None:
    unit = UNITS[name](4).double()
    assert not unit.coordinates.any()
    assert torch.equal(torch.cat(unit.coefficients(), -1), unit.centre)
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit(x).square().sum().backward()
    assert unit.coordinates.grad is not None and bool(unit.coordinates.grad.abs().sum(-1).all())
    with torch.no_grad():
        unit.coordinates.copy_(torch.randn(4, unit.centre.shape[-1], generator=torch.Generator().manual_seed(1)))
    v = unit.centre + (unit.mix @ torch.asinh(unit.coordinates / unit.radius)[..., None])[..., 0]
    # A sum of at most 11 products in float64, in another order.
    torch.testing.assert_close(torch.cat(unit.coefficients(), -1), v, rtol=1e-13, atol=1e-13)


@EVERY_UNIT
def test_new_coordinates_keep_the_function(name: str) -> None:
    unit = UNITS[name]().double().eval()
    with torch.no_grad():
        unit.coordinates.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    before = unit(x).detach()
    unit.condition(x.numpy(), np.full(41, 1 / 41))
    assert torch.equal(unit(x), before) and not unit.coordinates.any()


@pytest.mark.parametrize(
    ("keys", "unit"),
    [
        (("numerator", "denominator"), lambda: AN.PAU()),  # rational_activations, version A
        (("numerator", "denominator"), lambda: AN.PAU(form="C")),
        (("weight_numerator", "weight_denominator"), lambda: AN.PAU()),  # ml-research/pau
        (("c", "d"), lambda: AN.OPAU(degrees=(3, 2), basis="hermite_prob")),  # torch_activation
    ],
)
def test_checkpoints_of_the_public_code_load(keys: tuple[str, str], unit: Callable[[], RationalActivation]) -> None:
    """Their form has no clamp, no scale and no tails, and their numbers are kept to the bit."""
    module, g = unit().double(), torch.Generator().manual_seed(3)
    # LeakyReLU on [-3, 3], as their units begin, on t = x: about what theirs store.
    top, bottom = (part.detach() * (1 + 0.05 * torch.rand(part.shape, generator=g)) for part in module.coefficients())
    module.load_state_dict({keys[0]: top, keys[1]: bottom})
    assert torch.equal(module.coefficients()[0], top) and torch.equal(module.coefficients()[1], bottom)
    x = torch.linspace(-30, 30, 121, dtype=torch.float64)
    published = torch.tensor([1.0, -torch.inf, torch.inf, 0.0, 0.0])
    basis, form = module.basis_and_form
    if basis == "monomial":
        expected = pau_formula(x, top, bottom, published.double(), form, 0)
    else:
        expected = opau_formula(x, top, bottom, published.double(), basis, True, 0)
    assert torch.equal(module(x), expected)
    size = np.linalg.svd(gradients(module, torch.randn(500, generator=g).double()).numpy(), compute_uv=False)
    assert size[0] ** 2 / 500 <= 10


def test_coefficients_of_earlier_versions_load() -> None:
    """State dicts, and pickled modules, from before the coordinates."""
    new = AN.PAU(3, degrees=(5, 4), form="B")
    g = torch.Generator().manual_seed(4)
    old = {"a": torch.randn(3, 6, generator=g), "b": torch.randn(3, 4, generator=g)}
    old["tails"] = torch.tensor([1.25, -2.5, 2.5, 0.1, 0.9]).repeat(3, 1)
    state = {**old, "form_code": torch.tensor(1)}
    new.load_state_dict(state)
    assert torch.equal(new.a, old["a"]) and torch.equal(new.b, old["b"]) and torch.equal(new.tails, old["tails"])
    module = AN.PAU(3, form="B")
    for name in ("centre", "mix", "radius", "tails"):
        del module._buffers[name]
    del module._parameters["coordinates"]
    for name in ("names", "terms", "tails_mode", "site_channels"):
        del module.__dict__[name]
    module._parameters.update({k: torch.nn.Parameter(old[k]) for k in "ab"})
    module._buffers["tails"] = old["tails"]
    again = pickle.loads(pickle.dumps(module))
    x = torch.randn(2, 3, 5, generator=g)
    assert torch.equal(again(x), new(x))


@EVERY_UNIT
@pytest.mark.parametrize("tails", ["linear", "trained", "none"])
def test_state_dicts_keep_the_function(name: str, tails: str) -> None:
    unit = UNITS[name](4, tails=tails)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    file = io.BytesIO()
    torch.save(unit.state_dict(), file)
    file.seek(0)
    other = UNITS[name](4, tails=tails)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = 5 * torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(6))
    other.train(False), unit.train(False)
    assert torch.equal(other(x), unit(x)) and torch.equal(copy.deepcopy(unit)(x), unit(x))


@EVERY_UNIT
def test_no_tails_is_the_published_form_for_all_x(name: str) -> None:
    unit = UNITS[name](tails="none").eval()
    x = torch.linspace(-60, 60, 301)
    top, bottom = (part.double() for part in unit.coefficients())
    s = unit.tails[0].double()
    tails = torch.stack([s, *(s.new_tensor(v) for v in (-1e30, 1e30, 0.0, 0.0))])
    basis, form = unit.basis_and_form
    if basis == "monomial":
        expected = pau_formula(x.double(), top, bottom, tails, form, 0)
    else:
        expected = opau_formula(x.double(), top, bottom, tails, basis, True, 0)
    # Sums of up to six terms that partly cancel, in float32.
    torch.testing.assert_close(unit(x).double(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("name", ["pau_A", "opau_legendre"])
def test_trained_slopes_have_the_gradient_of_the_formula(name: str, channels: int | None) -> None:
    unit = UNITS[name](channels, tails="trained").eval()
    x = 4 * torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(7))
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(8))
    x.requires_grad_()
    unit(x).backward(grad)
    exact = copy.deepcopy(unit).double()
    tails = exact.current_tails().detach().requires_grad_()
    v = x.detach().double().requires_grad_()
    top, bottom = exact.coefficients()
    y = pau_formula(v, top, bottom, tails, "A", 1) if name == "pau_A" else opau_formula(
        v, top, bottom, tails, "legendre", True, 1
    )  # fmt: skip
    dx, dt = torch.autograd.grad(y, (v, tails), grad.double())
    assert unit.slopes.grad is not None and x.grad is not None
    # 105 float32 terms: an absolute error of at most 105 eps times the largest, about 20.
    torch.testing.assert_close(unit.slopes.grad.double(), dt[..., 3:], rtol=1e-5, atol=3e-4)
    torch.testing.assert_close(x.grad.double(), dx, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(unit(x), unit.requires_grad_(False)(x), rtol=0, atol=0)


def test_infinite_inputs_keep_trained_slopes_finite() -> None:
    unit = AN.PAU(tails="trained")
    unit(torch.tensor([-torch.inf, 0.0, torch.inf])).nan_to_num(0, 0, 0).sum().backward()
    assert unit.slopes.grad is not None and not unit.slopes.grad.isnan().any()


@EVERY_UNIT
def test_coefficients_are_not_rounded_under_autocast(name: str) -> None:
    unit = UNITS[name](3)
    with torch.no_grad():
        unit.coordinates.fill_(0.1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = unit.coefficients()
    for one, two in zip(inside, unit.coefficients(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: AN.PAU(degrees=(0, 4)), "two whole numbers"),
        (lambda: AN.PAU(degrees=5), "two whole numbers"),
        (lambda: AN.PAU(tails="flat"), "one of linear"),
        (lambda: AN.PAU(form="N"), "one of A"),
        (lambda: AN.OPAU(safe="yes"), "true or false"),
        (lambda: F.pau(torch.zeros(3), torch.zeros(6), torch.zeros(4), torch.ones(5), "N", 0), "unsafe"),
        (lambda: F.opau(torch.zeros(3), torch.zeros(6), torch.zeros(4), torch.ones(5), "T", True, 0), "legendre"),
        (lambda: AN.PAU().load_state_dict({"a": torch.zeros(7), "b": torch.zeros(4)}), "7 values"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_in_words(build: Callable[[], object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        build()


def test_default_rationals_are_leaky_relu() -> None:
    x = torch.linspace(-3, 3, 601).reshape(1, 1, -1)
    for module in (AN.PAU(), AN.PAU(form="B"), AN.PAU(form="C"), AN.OPAU(), AN.HP1(), AN.HP2()):
        assert (module.eval()(x) - torch.nn.functional.leaky_relu(x, 0.01)).abs().max() < 0.15
        assert (module(torch.tensor([[[300.0]]])) - 300).abs() < 0.5  # tails


@pytest.mark.parametrize("target", ["pau", "opau", "hp1", "hp2"])
def test_a_source_that_differs_by_channel_widens_a_pade_unit_that_is_not_told_its_sharing(target: str) -> None:
    """list --starts promises a fit for PReLU, so the default options must have one."""
    source, spec = Source.of("prelu", slope=(0.1, 0.5, 0.1, -0.2)), activations.get(target)
    start = spec.start(source, StartContext(histogram=Histogram.uniform(-2, 2)))
    module = spec.build(4, 1)
    module.load_start(start.params)
    x = grid(2.0).float()
    assert error(module, source, x).max() <= start.error + 1e-4
    shared = spec.build(4, 1)
    shared.load_start(spec.start(Source("relu"), StartContext(histogram=Histogram.uniform(-2, 2))).params)
    assert shared.channels is None


@pytest.mark.parametrize("name", ["pau_A", "pau_B", "pau_C", "pau_D", "pau_unsafe", "opau_legendre_safe"])
@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.0, 0.0), (0.1, -0.5)])
def test_rationals_far_out(name: str, slopes: tuple[float, float]) -> None:
    case = BY_NAME[name]
    *coefficients, _ = (t.float() for t in case.parameters())
    tails = torch.tensor([1.0, -3.0, 2.0, *slopes])
    y = case.call(LINE.reshape(1, 1, -1), [*coefficients, tails], 1).flatten()
    ends = case.call(torch.tensor([[[-3.0, 2.0, 0.0]]]), [*coefficients, tails], 1).flatten()
    assert y[:4].tolist() == pytest.approx([ends[2].item()] * 4)
    below, above = slopes
    assert y[4].item() == pytest.approx(above * 1e38 if above else ends[1].item(), rel=1e-5)
    assert y[5].item() == pytest.approx(-below * 1e38 if below else ends[0].item(), rel=1e-5)
    assert y[6].item() == (above * torch.inf if above else pytest.approx(ends[1].item()))
    assert y[7].item() == (-below * torch.inf if below else pytest.approx(ends[0].item()))
    assert y[8].isnan()
