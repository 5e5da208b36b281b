"""Padé units in orthogonal bases: equations 7 to 9 of Biswas et al. 2021, and the bases' derivatives."""

from __future__ import annotations

import pytest
import torch

from actswap import functional as AF
from actswap import nn as AN
from actswap.activations.opau import BASES, polynomials


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
        # Float64: sums over x of terms that cancel; a wrong term would show in the first digits.
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
