"""One call per operator and variant, with random arguments, and its value by an independent oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import chebyshev, hermite, hermite_e, laguerre, legendre
from scipy.special import eval_chebyu

from actswap import functional as AF
from actswap.activations.acon_b import acon_b_formula
from actswap.activations.acon_c import acon_c_formula
from actswap.activations.dy_relu import dy_relu_formula
from actswap.activations.dy_relu_c import dy_relu_c_formula
from actswap.activations.meta_acon import meta_acon_formula
from actswap.activations.opau import BASES, opau_formula
from actswap.activations.pau import FORMS, pau_formula
from actswap.activations.swish import swish_formula

N, C, H = 2, 3, 4
SHAPES = {
    "NC": ((N, C), 1),
    "NCL": ((N, C, 5), 1),
    "NCHW": ((N, C, 4, 5), 1),
    "NCDHW": ((N, C, 2, 3, 2), 1),
    "NLC": ((N, 5, C), -1),
    "NHWC": ((N, 4, 5, C), -1),
}


@dataclass(frozen=True)
class Case:
    """An operator with parameters; `oracle(x, *parameters)` works on a channels-first float64 array."""

    name: str
    op: Callable[..., torch.Tensor]
    formula: Callable[..., torch.Tensor]
    tensors: Callable[[torch.Generator], list[torch.Tensor]]
    constants: tuple[object, ...]
    oracle: Callable[..., np.ndarray]

    def parameters(self, seed: int = 0) -> list[torch.Tensor]:
        return [t.double() for t in self.tensors(torch.Generator().manual_seed(seed))]

    def call(self, x: torch.Tensor, tensors: list[torch.Tensor], dim: int) -> torch.Tensor:
        return self.op(x, *tensors, *self.constants, dim)

    def expected(self, x: torch.Tensor, tensors: list[torch.Tensor], dim: int) -> torch.Tensor:
        first = x.detach().double().movedim(dim, 1)
        y = self.oracle(first.numpy(), *(t.detach().double().numpy() for t in tensors), *self.constants)
        return torch.from_numpy(np.ascontiguousarray(y)).movedim(1, dim)


def wide(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(C,) or (1,) along axis 1, (N, C) along axes 0 and 1."""
    lead = p.shape if p.ndim == 2 else (1, *p.shape)
    return p.reshape(lead + (1,) * (x.ndim - 2))


def softmax_mean(values: list[np.ndarray], beta: np.ndarray) -> np.ndarray:
    """Equation 1 as it is printed, made safe by subtracting the greatest exponent."""
    v = np.stack(np.broadcast_arrays(*values))
    z = beta * v
    weights = np.exp(z - z.max(0))
    return (weights * v).sum(0) / weights.sum(0)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def mean_of(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:2], -1).mean(2)


def acon_oracle(x, p1, p2, beta):
    return softmax_mean([wide(p1, x) * x, wide(p2, x) * x], wide(beta, x))


def meta_oracle(x, p1, p2, scale, w1, b1, w2, b2):
    beta = scale * sigmoid((mean_of(x) @ w1.T + b1) @ w2.T + b2)
    return acon_oracle(x, p1, p2, beta)


def dy_relu_oracle(x, w1, b1, w2, b2, init, lambdas):
    y = np.full(x.shape, -np.inf)
    hidden = np.maximum(mean_of(x) @ w1.T + b1, 0)
    theta = 2 * sigmoid(hidden @ w2.T + b2) - 1
    k, channels = len(lambdas) // 2, x.shape[1]
    for n, c in np.ndindex(x.shape[:2]):
        shared = theta.shape[1] == 2 * k

        def coefficient(j):
            row = j if shared else j * channels + c  # noqa: B023
            return init[j, c % init.shape[1]] + lambdas[j] * theta[n, row]  # noqa: B023

        for line in range(k):
            y[n, c] = np.maximum(y[n, c], coefficient(line) * x[n, c] + coefficient(k + line))
    return y


def dy_relu_c_oracle(x, w1, b1, w2, b2, init, lambdas, ws, bs, tau, gain):
    y = dy_relu_oracle(x, w1, b1, w2, b2, init, lambdas)
    flat = x.reshape(*x.shape[:2], -1)
    score = np.exp((np.einsum("ncp,c->np", flat, ws) + bs) / tau)
    share = score / score.sum(1, keepdims=True)
    gate = np.minimum(share * flat.shape[2] / 3, 1)
    return y * (gain * gate).reshape(x.shape[0], 1, *x.shape[2:])


def rows(coefficients, channels):
    return np.broadcast_to(coefficients, (channels, coefficients.shape[-1]))


def tailed(x, tails, inside):
    y = np.empty(x.shape)
    for c in range(x.shape[1]):
        s, lo, hi, below, above = rows(tails, x.shape[1])[c]
        v = x[:, c]
        y[:, c] = inside(c, np.clip(v, lo, hi) / s) + below * np.minimum(v - lo, 0) + above * np.maximum(v - hi, 0)
    return y


def pau_oracle(x, a, b, tails, form):
    def inside(c, t):
        p = sum(w * t**j for j, w in enumerate(rows(a, x.shape[1])[c]))
        terms = [w * t ** (k if form == "C" else k + 1) for k, w in enumerate(rows(b, x.shape[1])[c])]
        q = {
            "unsafe": lambda: 1 + sum(terms),
            "A": lambda: 1 + sum(np.abs(v) for v in terms),
            "B": lambda: 1 + np.abs(sum(terms)),
            "D": lambda: 1 + np.abs(sum(terms)),
            "C": lambda: 0.1 + np.abs(sum(terms)),
        }[form]()
        return p / q

    return tailed(x, tails, inside)


def polynomial(basis: str, n: int, t: np.ndarray) -> np.ndarray:
    unit = [0.0] * n + [1.0]
    return {
        "chebyshev_t": lambda: chebyshev.chebval(t, unit),
        "chebyshev_u": lambda: eval_chebyu(n, t),
        "legendre": lambda: legendre.legval(t, unit),
        "laguerre": lambda: laguerre.lagval(t, unit),
        "hermite_prob": lambda: hermite_e.hermeval(t, unit),
        "hermite_phys": lambda: hermite.hermval(t, unit),
    }[basis]()


def opau_oracle(x, c, d, tails, basis, safe):
    def inside(channel, t):
        top, bottom = rows(c, x.shape[1])[channel], rows(d, x.shape[1])[channel]
        p = sum(w * polynomial(basis, j, t) for j, w in enumerate(top))
        terms = [w * polynomial(basis, j + 1, t) for j, w in enumerate(bottom)]
        return p / (1 + sum(np.abs(v) if safe else v for v in terms))

    return tailed(x, tails, inside)


def normal(*shape: int) -> Callable[[torch.Generator], torch.Tensor]:
    return lambda g: torch.randn(*shape, generator=g, dtype=torch.float64)


def several(*makers: Callable[[torch.Generator], torch.Tensor]):
    return lambda g: [make(g) for make in makers]


def fixed(*values: float) -> Callable[[torch.Generator], torch.Tensor]:
    return lambda g: torch.tensor(values, dtype=torch.float64)


TAILS = fixed(1.3, -2.0, 1.7, 0.1, 0.9)


def tails_by_channel(g: torch.Generator) -> torch.Tensor:
    spread = torch.rand(C, 5, generator=g, dtype=torch.float64)
    return torch.tensor([1.0, -2.2, 1.5, 0.0, 0.8], dtype=torch.float64) + 0.3 * spread


def small(*shape: int) -> Callable[[torch.Generator], torch.Tensor]:
    """Coefficients so small that unsafe denominators stay away from 0 on the range."""
    return lambda g: 0.04 * torch.randn(*shape, generator=g, dtype=torch.float64)


def dy_relu_tensors(k: int, shared: bool, channels: int = C):
    out = 2 * k if shared else 2 * k * channels
    return several(
        normal(H, channels),
        normal(H),
        normal(out, H),
        normal(out),
        normal(2 * k, 1 if shared else channels),
        lambda g: torch.tensor([1.0] * k + [0.5] * k, dtype=torch.float64),
    )


def attention(g: torch.Generator) -> list[torch.Tensor]:
    return [*dy_relu_tensors(2, False)(g), normal(C)(g), normal(1)(g)]


CASES = [
    Case(
        "swish",
        AF.swish,
        swish_formula,
        several(normal(C)),
        (),
        lambda x, b: acon_oracle(x, np.ones(1), np.zeros(1), b),
    ),
    Case(
        "swish_layer",
        AF.swish,
        swish_formula,
        several(normal(1)),
        (),
        lambda x, b: acon_oracle(x, np.ones(1), np.zeros(1), b),
    ),
    Case(
        "acon_b",
        AF.acon_b,
        acon_b_formula,
        several(normal(C), normal(C)),
        (),
        lambda x, p, b: acon_oracle(x, np.ones(1), p, b),
    ),
    Case("acon_c", AF.acon_c, acon_c_formula, several(normal(C), normal(C), normal(C)), (), acon_oracle),
    Case("acon_c_layer", AF.acon_c, acon_c_formula, several(normal(1), normal(1), normal(1)), (), acon_oracle),
    Case(
        "meta_acon",
        AF.meta_acon,
        meta_acon_formula,
        several(normal(C), normal(C), normal(C), normal(H, C), normal(H), normal(C, H), normal(C)),
        (),
        meta_oracle,
    ),
    Case("dy_relu_a", AF.dy_relu, dy_relu_formula, dy_relu_tensors(2, True), (), dy_relu_oracle),
    Case("dy_relu_b", AF.dy_relu, dy_relu_formula, dy_relu_tensors(2, False), (), dy_relu_oracle),
    Case("dy_relu_b_k1", AF.dy_relu, dy_relu_formula, dy_relu_tensors(1, False), (), dy_relu_oracle),
    Case("dy_relu_b_k3", AF.dy_relu, dy_relu_formula, dy_relu_tensors(3, False), (), dy_relu_oracle),
    Case("dy_relu_c", AF.dy_relu_c, dy_relu_c_formula, attention, (2.0, 1.0), dy_relu_c_oracle),
    *(
        Case(
            f"pau_{form}",
            AF.pau,
            pau_formula,
            several(normal(6), small(4 + (form == "C")), TAILS),
            (form,),
            pau_oracle,
        )
        for form in FORMS
    ),
    Case(
        "pau_channels",
        AF.pau,
        pau_formula,
        several(normal(C, 4), normal(C, 3), tails_by_channel),
        ("A",),
        pau_oracle,
    ),
    *(
        Case(
            f"opau_{basis}_{'safe' if safe else 'unsafe'}",
            AF.opau,
            opau_formula,
            several(normal(6), small(4) if safe else lambda g: 0.1 * small(4)(g), TAILS),
            (basis, safe),
            opau_oracle,
        )
        for basis in BASES
        for safe in (True, False)
    ),
    Case(
        "opau_channels",
        AF.opau,
        opau_formula,
        several(normal(C, 4), normal(C, 2), tails_by_channel),
        ("legendre", True),
        opau_oracle,
    ),
]
BY_NAME = {case.name: case for case in CASES}


def inputs(shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# What far inputs are tried with: zeros of both signs, subnormals, the largest, infinite and no number.
LINE = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 1e38, -1e38, torch.inf, -torch.inf, torch.nan])
