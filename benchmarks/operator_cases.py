"""Calls of every operator on random data, for the tests and the benchmarks of the kernels."""

from __future__ import annotations

import torch

from actswap import ops
from actswap.activations.acon_b import acon_b_formula
from actswap.activations.acon_c import acon_c_formula
from actswap.activations.dy_relu import dy_relu_formula
from actswap.activations.dy_relu_c import dy_relu_c_formula
from actswap.activations.meta_acon import meta_acon_formula
from actswap.activations.opau import opau_formula
from actswap.activations.pau import pau_formula
from actswap.activations.swish import swish_formula

FORMULAS = {
    "swish": swish_formula,
    "acon_b": acon_b_formula,
    "acon_c": acon_c_formula,
    "meta_acon": meta_acon_formula,
    "dy_relu": dy_relu_formula,
    "dy_relu_c": dy_relu_c_formula,
    "pau": pau_formula,
    "opau": opau_formula,
}


def operator(name: str):
    """Return the operator's function."""
    function = ops.function_of(name)
    assert function is not None, f"{name} is not declared"
    return function


def tails(
    width: tuple[int, ...] = (), low: float = -2.5, high: float = 2.5, below: float = 0.1, above: float = 0.9
) -> torch.Tensor:
    return torch.tensor([1.25, low, high, below, above]).expand(*width, 5).contiguous()


def _some_flat(channels: int) -> torch.Tensor:
    """Tails of which every second is flat above."""
    mixed = tails((channels,), below=0)
    mixed[::2, 4] = 0
    return mixed


def parameters(kind: str, channels: int) -> tuple[str, tuple]:
    """Return (operator, arguments between x and dim) of a named case; the case names are the keys of CASES."""
    name, build = CASES[kind]
    return name, build(channels)


def _positive(*shape: int) -> torch.Tensor:
    return torch.rand(*shape) + 0.25


def _near(*values: float):
    """Coefficients around fixed ones: no two channels alike."""

    def build(*width: int) -> torch.Tensor:
        base = torch.tensor(values)
        return base + 0.05 * torch.randn(*width, len(values))

    return build


_a = _near(0.02, 0.6, 1.5, 1.0, 0.5, 0.1)
_b = _near(-0.4, 1.2, 0.3, 0.2)
_b5 = _near(0.5, -0.4, 1.2, 0.3, 0.2)


# The gates are as wide as the modules make them by default (MetaAcon r = 16, DyReLU reduction = 8): the benchmarks
# time what users get.
def _meta(c: int) -> tuple:
    h = max(16, c // 16)
    return (torch.randn(c), torch.randn(c), _positive(c), torch.randn(h, c) / c, torch.randn(h),
            torch.randn(c, h) / h, torch.randn(c))  # fmt: skip


def _dy(c: int, k: int, shared: bool) -> tuple:
    h, rows = max(4, c // 8), 2 * k * (1 if shared else c)
    width = 1 if shared else c
    return (torch.randn(h, c) / c, torch.randn(h), torch.randn(rows, h) / h, torch.randn(rows),
            torch.randn(2 * k, width), _positive(2 * k))  # fmt: skip


def _attention(c: int, width: int) -> tuple:
    # Scores of a few units: some factors are cut off at 1, most are not.
    return torch.randn(width) * (2 / c**0.5), torch.randn(1), 0.7, 3.0


CASES = {
    "swish": ("swish", lambda c: (_positive(c),)),
    "swish_layer": ("swish", lambda c: (_positive(1),)),
    "acon_b": ("acon_b", lambda c: (torch.randn(c), torch.randn(c))),
    "acon_c": ("acon_c", lambda c: (torch.randn(c), torch.randn(c), torch.randn(c))),
    "acon_c_mixed": ("acon_c", lambda c: (torch.randn(c), torch.randn(1), torch.randn(c))),
    "meta_acon": ("meta_acon", _meta),
    "dy_relu": ("dy_relu", lambda c: _dy(c, 2, False)),
    "dy_relu_a": ("dy_relu", lambda c: _dy(c, 2, True)),
    "dy_relu_3": ("dy_relu", lambda c: _dy(c, 3, False)),
    "dy_relu_c": ("dy_relu_c", lambda c: (*_dy(c, 2, False), *_attention(c, c))),
    "dy_relu_c_3": ("dy_relu_c", lambda c: (*_dy(c, 3, True), *_attention(c, 1))),
    "pau_a": ("pau", lambda c: (_a(), _b(), tails(), "A")),
    "pau_a_channel": ("pau", lambda c: (_a(c), _b(c), tails((c,)), "A")),
    "pau_b": ("pau", lambda c: (_a(), _b(), tails(), "B")),
    "pau_flat": ("pau", lambda c: (_a(), _b(), tails(below=0, above=0), "B")),
    "pau_flat_below": ("pau", lambda c: (_a(c), _b(c), tails((c,), below=0), "A")),
    "pau_flat_some": ("pau", lambda c: (_a(c), _b(c), _some_flat(c), "A")),
    "pau_c": ("pau", lambda c: (_a(c), _b5(c), tails(), "C")),
    "pau_unsafe": ("pau", lambda c: (_a(), _near(0.0, 0.3, 0.0, 0.1)(), tails(), "unsafe")),
    "pau_32": ("pau", lambda c: (_near(0.1, 0.5, 0.2, 0.1)(c), _near(-0.3, 0.5)(), tails(), "B")),
    "opau_t": ("opau", lambda c: (_a(), _b(), tails(), "chebyshev_t", True)),
    "opau_he": ("opau", lambda c: (_a(c), _b(c), tails((c,)), "hermite_prob", True)),
    "opau_unsafe": ("opau", lambda c: (_a(), 0.05 * _b(), tails(), "legendre", False)),
    "opau_lag": ("opau", lambda c: (_near(0.1, 0.5, 0.2, 0.1)(), _near(-0.3, 0.5)(), tails(), "laguerre", True)),
}
