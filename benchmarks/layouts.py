"""Run every operator on every pair of memory orders of x and its gradient, against the formula in float64.

Forward, the gradient of x and those of all parameters; the fast path and the kernels behind it. The output takes the
order of `torch.empty_like(x)`, which is checked too. Orders: permuted axes (channels last in two and three dimensions
among them), cut, stepped over, expanded. Results go to benchmarks/results/.

    python benchmarks/layouts.py            # 3 minutes on one core
"""

from __future__ import annotations

import sys
from datetime import date
from itertools import product
from math import prod
from pathlib import Path

import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from memory_orders import memory_orders  # noqa: E402
from operator_cases import CASES, FORMULAS, operator, parameters  # noqa: E402

import actswap.nn  # noqa: E402, F401 - declares the operators
from actswap import ops  # noqa: E402

# Shape, channel axis, permutations of x and of the gradient.
SHAPES = (
    ((7,), 0, 1),
    ((5, 6), 1, 2),
    ((5, 6), 0, 2),
    ((3, 4, 5), 1, 6),
    ((3, 4, 5), -1, 6),
    ((3, 4, 5), 0, 6),
    ((2, 3, 4, 5), 1, 24),
    ((2, 3, 4, 5), -1, 24),
    ((2, 3, 4, 5), 2, 6),
    ((1, 3, 4, 5), 1, 8),
    ((2, 1, 4, 5), 1, 8),
    ((2, 3, 1, 5), 1, 8),
    ((2, 3, 1, 1), 1, 8),
    ((2, 35, 3, 6), 1, 6),
    ((2, 3, 2, 3, 4), 1, 12),
    ((2, 3, 2, 3, 4), -1, 12),
    ((2, 3, 91, 100), 1, 3),
    ((1, 2, 1, 2, 2, 2, 3), 1, 3),
)
# As a part of the largest entry: the bound of tests/native/test_kernels.py. The entry is one of this call or of that
# with random x and gradient: if all x are alike, terms of that size cancel (the gradient of the attention is 0).
# Roundings of either sign grow with the root of the number of terms in a sum, which the bound takes for 2048 at most.
TOLERANCE, TERMS = 2e-5, 2048
# If x and the gradient repeat their entries, so do the terms of a sum and their roundings: 2^-24 each, all one way, in
# sums of up to 2048 terms.
ALIKE = TERMS * 2**-24
# Some sums cancel by their nature (the attention's gradient, if its softmax is near 0 or 1): what the formula itself is
# off by in float32 tells how much, and the kernels add in another order.
CANCELLING = 8
FLOOR = 1e-5  # what is 0 but for the rounding of terms of about 1
# Tails have no gradient; that of the attention's bias is zero, which leaves no scale for an error.
CONSTANT = {"pau": 3, "opau": 3, "dy_relu_c": 8}


def sweep(kind: str, shape: tuple[int, ...], dim: int, most: int, every: int = 1) -> tuple[int, list[str]]:
    """Compare results in pairs of memory orders with the formula's.

    Args:
        kind: a key of operator_cases.CASES.
        shape: of x.
        dim: the channel axis.
        most: permutations of the axes to try, for x and for the gradient each.
        every: try only one in so many pairs.

    Returns:
        How many results were compared, and what disagreed, in words.
    """
    torch.manual_seed(0)
    name, given = parameters(kind, shape[dim])
    constant = CONSTANT.get(name)
    params = [p.requires_grad_(i + 1 != constant) if isinstance(p, Tensor) else p for i, p in enumerate(given)]
    x_orders, g_orders = (list(memory_orders(2 * torch.randn(shape), most)) for _ in range(2))
    tolerance = TOLERANCE * max(1.0, (prod(shape) / TERMS) ** 0.5)
    known: dict[tuple[str, str], tuple[list[Tensor], list[float]]] = {}
    compared, wrong = 0, []
    for (x_order, x), (g_order, g) in list(product(x_orders, g_orders))[::every]:
        values = tuple(order if "expanded" in order else "" for order in (x_order, g_order))
        if values not in known:
            right = _formula(name, [x, *params], dim, g, constant, torch.float64)
            single = _formula(name, [x, *params], dim, g, constant, torch.float32)
            usual = known[("", "")][0] if known else right
            share = tolerance + ALIKE if all(values) else tolerance
            known[values] = (
                right,
                [
                    share * max(_largest(a), _largest(b)) + CANCELLING * _largest(a - c) + FLOOR
                    for a, b, c in zip(right, usual, single, strict=True)
                ],
            )
        right, allowed = known[values]
        for backend in ("auto", "native"):
            with ops.backend(backend):
                got = _results(operator(name), [x, *params], dim, g, constant)
            compared += len(got)
            where = f"{kind} {shape} dim {dim}, x {x_order}, gradient {g_order}, {backend}"
            for i, (a, b, most) in enumerate(zip(got, right, allowed, strict=True)):
                if not (error := _largest(a - b)) <= most:
                    wrong.append(f"{where}: result {i} is off by {error:.2g}, more than {most:.2g}")
            if got[0].stride() != torch.empty_like(x).stride():
                wrong.append(f"{where}: the output is not like empty_like(x)")
    return compared, wrong


def _largest(t: Tensor) -> float:
    return float(t.abs().max())


def _formula(name: str, args: list, dim: int, g: Tensor, constant: int | None, dtype: torch.dtype) -> list[Tensor]:
    """Return the formula's results, computed in one type."""
    args = [a.detach().to(dtype).contiguous() if isinstance(a, Tensor) else a for a in args]
    return [t.double() for t in _results(FORMULAS[name], args, dim, g.to(dtype), constant)]


def _results(function, args: list, dim: int, g: Tensor, constant: int | None) -> list[Tensor]:
    """Return y, the gradient of x and those of the parameters."""
    leaves = [a.detach().requires_grad_(i != constant) if isinstance(a, Tensor) else a for i, a in enumerate(args)]
    y = function(*leaves, dim)
    wanted = [a for a in leaves if isinstance(a, Tensor) and a.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, wanted, g)]


def main() -> None:
    torch.set_num_threads(1)
    out = Path(__file__).parent / "results" / f"layouts-{date.today()}.txt"
    lines, compared, wrong = [], 0, []
    for kind in CASES:
        gated = kind.startswith(("meta", "dy"))
        here, bad = 0, []
        for shape, dim, most in SHAPES:
            if gated and (len(shape) < 2 or dim % len(shape) == 0):
                continue
            n, w = sweep(kind, shape, dim, most)
            here, bad = here + n, bad + w
        lines.append(f"{kind:16} {here:7} results compared, {len(bad)} wrong")
        sys.stdout.write(lines[-1] + "\n")
        compared, wrong = compared + here, wrong + bad
    lines.append(f"{'all':16} {compared:7} results compared, {len(wrong)} wrong")
    sys.stdout.write("\n".join([lines[-1], *wrong[:50], ""]))
    out.write_text("\n".join([*lines, *wrong[:50], ""]))
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
