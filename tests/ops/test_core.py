"""Calls into the CPU kernels: laid out once for a kind, right for any memory order; what is missing is told."""

from __future__ import annotations

import pytest
import torch
from operator_cases import FORMULAS, parameters

from actswap.ops import core
from actswap.ops.core import Calls
from actswap.ops.native import KERNELS

pytestmark = pytest.mark.skipif(not core.status().available, reason=core.status().note)


def calls_of(name: str) -> Calls:
    found = KERNELS[name].forward.__self__
    assert isinstance(found, Calls)
    return found


def test_a_kind_of_call_is_laid_out_once() -> None:
    calls = calls_of("acon_c")
    x, given = torch.randn(2, 6, 11, 13), parameters("acon_c", 6)[1]
    calls.forward([x, *given, 1])
    plans, heads = len(calls.plans), len(calls.heads)
    calls.forward([x + 1, *given, 1])
    assert (len(calls.plans), len(calls.heads)) == (plans, heads)
    calls.forward([x.to(memory_format=torch.channels_last), *given, 1])
    assert len(calls.plans) == plans and len(calls.heads) == heads + 1, "another memory order, the same plan"


def test_what_is_remembered_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_REMEMBERED", 8)
    calls, given = calls_of("swish"), parameters("swish", 3)[1]
    calls.plans.clear()  # of the tests before, when more were remembered
    calls.heads.clear()
    for n in range(1, 60):
        calls.forward([torch.randn(n, 3), *given, 1])
    assert len(calls.plans) <= 9 and len(calls.heads) <= 9


@pytest.mark.parametrize("kind", ["acon_c", "pau_a_channel", "meta_acon", "dy_relu_c"])
@pytest.mark.parametrize(
    "order",
    [lambda x: x.transpose(2, 3), lambda x: x.flip(0), lambda x: x[..., ::2], lambda x: x.expand(2, -1, -1, -1)],
)
def test_any_memory_order_gives_the_same_numbers(kind: str, order) -> None:
    torch.manual_seed(0)
    name, given = parameters(kind, 6)
    x = order(torch.randn(1, 6, 4, 4))
    assert KERNELS[name].refuses([x, *given, 1]) == ""
    y, _ = KERNELS[name].forward([x, *given, 1])
    expected = FORMULAS[name](x.double(), *(a.double() if isinstance(a, torch.Tensor) else a for a in given), 1)
    # Some tens of float32 roundings of values up to the largest.
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_status_names_the_instruction_set_or_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = core.status()
    assert found.isa and found.isa in found.note
    monkeypatch.setattr(core.libraries, "find", lambda stem: None)
    library, lost = core._load()
    assert library is None and not lost.available and "actswap.ops.build" in lost.note and "slower" in lost.note
    monkeypatch.setattr(core.libraries, "find", lambda stem: __file__)
    assert "do not load" in core._load()[1].note
