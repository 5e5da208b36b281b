"""Who computes a call: a kernel that fits, else the formula; and a backend that was asked for must fit."""

from __future__ import annotations

import pytest
import torch
from operator_cases import FORMULAS, operator, parameters

from actswap import ops
from actswap.errors import UsageError
from actswap.ops import core, dispatch

built = pytest.mark.skipif(not core.status().available, reason=core.status().note)


def call(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return (torch.randn(2, 6, 5, dtype=dtype), *parameters("acon_c", 6)[1])


@built
def test_a_call_that_fits_has_a_kernel_and_one_that_does_not_has_the_formula() -> None:
    args = [*call(), 1]
    chosen = dispatch.choose("acon_c", args)
    assert chosen is not None and chosen.backend == "native"
    assert dispatch.choose("acon_c", [*call(torch.float64), 1]) is None
    with ops.backend("reference"):
        assert dispatch.choose("acon_c", args) is None and dispatch.forward("acon_c", tuple(args)) is None


@pytest.mark.parametrize(("name", "dtype"), [("native", torch.float64), ("triton", torch.float64)])
def test_a_backend_that_does_not_fit_is_refused_with_the_way_out(name: str, dtype: torch.dtype) -> None:
    x, *given = call(dtype)
    with ops.backend(name), pytest.raises(UsageError) as caught:
        operator("acon_c")(x, *given, 1)
    assert name in caught.value.what and caught.value.why and caught.value.fix == 'actswap.ops.backend("auto")'


def test_an_operator_that_no_table_has_goes_to_its_formula() -> None:
    assert dispatch.choose("no_such_operator", [torch.zeros(2, 3)]) is None and dispatch.fast_path("none") is None
    with ops.backend("native"), pytest.raises(UsageError, match="no kernel for it, or was not built"):
        dispatch.choose("no_such_operator", [torch.zeros(2, 3)])


@built
def test_kernel_and_formula_agree_in_value_and_gradient() -> None:
    x, *given = call()
    leaves = [x.requires_grad_(), *(p.requires_grad_() for p in given)]
    y = operator("acon_c")(*leaves, 1)
    found = torch.autograd.grad(y.sum(), leaves)
    expected = FORMULAS["acon_c"](*leaves, 1)
    wanted = torch.autograd.grad(expected.sum(), leaves)
    for one, other in zip((y, *found), (expected, *wanted), strict=True):
        # Sums of at most ten terms of size up to ten.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
