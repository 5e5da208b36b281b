"""What a kernel offers: each table has a kernel for every operator, and each does what the contract says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operator_cases import FORMULAS, parameters

from actswap.ops import core
from actswap.ops.contract import Kernel
from actswap.ops.native import KERNELS

built = pytest.mark.skipif(not core.status().available, reason=core.status().note)
# One case for each operator.
KINDS = ["swish", "acon_b", "acon_c", "meta_acon", "dy_relu", "dy_relu_c", "pau_a", "opau_t"]


def call(kind: str) -> tuple[str, list[Any]]:
    torch.manual_seed(0)
    name, given = parameters(kind, 6)
    return name, [torch.randn(2, 6, 5), *given, 1]


def test_every_operator_has_a_kernel_in_each_table() -> None:
    assert set(KERNELS) == set(FORMULAS) and {kernel.backend for kernel in KERNELS.values()} == {"native"}


def test_triton_has_the_same_table() -> None:
    pytest.importorskip("triton")
    from actswap.ops import triton

    assert set(triton.KERNELS) == set(FORMULAS) and {k.backend for k in triton.KERNELS.values()} == {"triton"}


@built
@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_gives_y_and_one_gradient_for_each_tensor_that_needs_one(kind: str) -> None:
    name, args = call(kind)
    kernel: Kernel = KERNELS[name]
    assert kernel.refuses(args) == ""
    y, aux = kernel.forward(args)
    assert y.shape == args[0].shape and (aux is None or aux.numel() < y.numel())
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    for wanted in (0, len(tensors) - 1):
        needs = [i == wanted for i in range(len(tensors))]
        found = kernel.backward(torch.ones_like(y), args, aux, needs)
        assert [g is not None for g in found] == needs and found[wanted].shape == tensors[wanted].shape


@built
@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_says_in_words_what_it_does_not_take(kind: str) -> None:
    name, args = call(kind)
    double = [args[0].double(), *args[1:]]
    assert "not torch.float64" in KERNELS[name].refuses(double)
    assert KERNELS[name].refuses([args[0][:0], *args[1:]]) != ""


@built
@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_path_agrees_or_declines(kind: str) -> None:
    name, args = call(kind)
    short = KERNELS[name].fast_path
    if short is None:
        return
    y, _ = KERNELS[name].forward(args)
    found = short(*args)
    assert found is not None and found is not False and torch.equal(found, y)
    assert short(args[0].requires_grad_(), *args[1:]) is False, "it is plain but needs a gradient"
