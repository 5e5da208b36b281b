"""Padé units by their coordinates: one step of autograd that computes what coefficients and operator do."""

import copy
import sys
import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import actswap.nn as AN
from actswap import ops
from actswap.activations.rational import RationalActivation
from actswap.ops import core
from actswap.ops.coordinates import coefficients

fast = pytest.mark.skipif(core.FastPath is None, reason="the extension is not built")

UNITS = {
    "pau A": lambda c, t: AN.PAU(c, tails=t),
    "pau C": lambda c, t: AN.PAU(c, form="C", tails=t),
    "pau (7, 6)": lambda c, t: AN.PAU(c, degrees=(7, 6), form="B", tails=t),
    "opau": lambda c, t: AN.OPAU(c, tails=t),
    "hp2": lambda c, t: AN.HP2(c, tails=t),
}
LAYOUTS = {
    "planes": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "strided": lambda x: torch.stack([x, x], 4)[..., 0],
    "expanded": lambda x: x[:, :, :1].expand(x.shape),
}


def moved(name: str, channels: int | None, tails: str = "linear") -> RationalActivation:
    """A unit away from its start: steps below and above the length at which asinh bends."""
    unit = UNITS[name](channels, tails)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        step = torch.randn(unit.coordinates.shape, generator=generator)
        unit.coordinates.copy_(0.3 * step * unit.radius)
    return unit


def results(unit: RationalActivation, x: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    """Forward without a gradient, forward with one, and the gradients."""
    with torch.no_grad():
        plain = unit(x)
    leaf = x.detach().requires_grad_()
    y = unit(leaf)
    return [plain, y.detach(), *torch.autograd.grad(y, [leaf, unit.coordinates], g)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("name", UNITS)
def test_values_and_gradients_are_those_of_the_formula(name: str, channels: int | None, layout: str) -> None:
    unit, generator = moved(name, channels), torch.Generator().manual_seed(2)
    x, g = (LAYOUTS[layout](torch.randn(2, 3, 4, 5, generator=generator)) for _ in range(2))
    found = results(unit, x, g)
    with ops.backend("reference"):
        wanted = results(copy.deepcopy(unit).double(), x.double(), g.double())
    assert torch.equal(found[0], found[1])
    for one, two in zip(found, wanted, strict=True):
        # Sums of at most 120 products of polynomials that cancel to about a hundredth: 1e-5 of the largest is 80 eps.
        torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-5 * float(two.abs().max()))


@fast
@pytest.mark.parametrize("channels", [None, 5])
def test_every_call_of_a_kind_has_the_same_bits(channels: int | None) -> None:
    """Also the first one, which lays the kind out: a resumed training must not differ by a rounding."""
    unit, generator = moved("opau", channels), torch.Generator().manual_seed(3)
    x, g = (torch.randn(3, 5, 11, 13, generator=generator) for _ in range(2))
    first, second = (results(unit, x, g) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@fast
def test_the_fast_path_takes_plain_calls_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, x = moved("pau A", None), torch.randn(2, 3, 7)
    ordinary = []
    monkeypatch.setattr(RationalActivation, "coefficients", lambda self: ordinary.append(1) or (
        coefficients(self.coordinates, self.radius, self.mix, self.centre, self.degrees[0] + 1)
    ))  # fmt: skip

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    unit(x)
    unit(x.bfloat16())
    assert not ordinary
    others = [
        lambda: torch.no_grad()(unit)(x.double()),
        lambda: torch.vmap(unit)(x),
        lambda: torch.func.grad(lambda v: unit(v).sum())(x),
    ]
    for k, other in enumerate(others):
        assert other().shape == x.shape and len(ordinary) == k + 1
    with Watch(), torch.no_grad():
        unit(x)
    with ops.backend("reference"):
        unit(x)
    assert len(ordinary) == 5


def test_second_derivatives() -> None:
    unit = moved("opau", None).double()
    x = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    single = copy.deepcopy(unit).float()

    def twice(unit: RationalActivation, x: torch.Tensor) -> list[torch.Tensor]:
        leaf = x.detach().requires_grad_()
        once = torch.autograd.grad(unit(leaf).sin().sum(), [leaf, unit.coordinates], create_graph=True)
        total = sum((each.square().sum() for each in once), torch.zeros((), dtype=x.dtype))
        return list(torch.autograd.grad(total, [leaf, unit.coordinates]))

    for one, two in zip(twice(single, x.float()), twice(unit, x), strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-3, atol=1e-4 * float(two.abs().max()))


def test_a_frozen_unit_gives_x_its_gradient_and_a_constant_x_the_unit() -> None:
    unit = moved("opau", 3)
    x, g = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    _, _, of_x, of_u = results(unit, x, g)
    unit(x).backward(g)
    assert unit.coordinates.grad is not None and torch.equal(unit.coordinates.grad, of_u)
    unit.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    unit(leaf).backward(g)
    assert leaf.grad is not None and torch.equal(leaf.grad, of_x)


def test_every_change_of_the_numbers_is_seen() -> None:
    """Nothing is remembered between calls: `.data` and views change numbers without a trace."""
    unit, x = AN.OPAU(), torch.randn(4, 3)
    for name in ("coordinates", "centre", "mix", "radius", "tails"):
        before = unit(x).detach()
        tensor = getattr(unit, name)
        if name in ("coordinates", "centre"):
            tensor.data.view(-1)[0] += 0.5
        else:
            tensor.data.mul_(1.5)
        assert not torch.equal(unit(x).detach(), before), name


@fast
def test_threads_and_reference_counts() -> None:
    unit, wrong = moved("pau A", None), []
    numbers = [*unit.parameters(), *unit.buffers()]

    def work(first: int) -> None:
        for n in range(first, first + 60):
            x = torch.full((n, 3), n / 300, requires_grad=True)
            y = unit(x)
            torch.autograd.grad(y.sum(), [x, unit.coordinates])
            if y.shape != x.shape or not torch.equal(y[0], y[-1]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(1 + 40 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    before = [sys.getrefcount(each) for each in (*numbers, None, True)]
    work(1)  # every kind of these is known by now
    after = [sys.getrefcount(each) for each in (*numbers, None, True)]
    assert all(abs(a - b) < 20 for a, b in zip(before, after, strict=True))
