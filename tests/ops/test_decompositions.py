"""Formulas for finite inputs: the same values without the choices at infinity, in the thread that asked only."""

from __future__ import annotations

import operator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from operator_cases import FORMULAS, parameters
from torch.fx.experimental.proxy_tensor import make_fx

from actswap.ops.decompositions import by_aten, finite_assumed, is_finite_assumed


def test_finite_inputs_are_assumed_in_this_thread_and_block_only() -> None:
    with pytest.raises(KeyError), finite_assumed(), ThreadPoolExecutor(1) as pool:
        assert is_finite_assumed() and not pool.submit(is_finite_assumed).result()
        raise KeyError
    assert not is_finite_assumed()


@pytest.mark.parametrize("kind", ["swish", "acon_b", "acon_c", "meta_acon", "dy_relu", "dy_relu_c", "pau_a", "opau_t"])
def test_values_are_those_of_the_formula_by_aten_operators_alone(kind: str) -> None:
    torch.manual_seed(0)
    name, given = parameters(kind, 4)
    x, formula = torch.randn(2, 4, 5), FORMULAS[name]
    compute = by_aten(name, formula)
    # The same sums in another order: a few roundings of values up to 10.
    torch.testing.assert_close(compute(x, *given, 1), formula(x, *given, 1), rtol=1e-5, atol=1e-5)
    graph = make_fx(lambda x: compute(x, *given, 1))(x).graph
    called = {str(n.target) for n in graph.nodes if n.op == "call_function" and n.target is not operator.getitem}
    assert called and all(target.startswith("aten.") for target in called) and "aten.isinf.default" not in called
