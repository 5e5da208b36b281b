"""meta-ACON and DY-ReLU in Triton: the formula's values and gradients, code for a GPU, and calls they do not take."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from triton_runs import compiled, interpreted

from actswap.ops.triton import gated

MODES = ({"MODE": gated._FORWARD}, {"MODE": gated._SUMS}, {"MODE": gated._GRADIENT})


def test_values_and_gradients_are_those_of_the_formula() -> None:
    interpreted("meta_acon", "dy_relu", "dy_relu_a", "dy_relu_3")


@pytest.mark.parametrize(("operation", "lines"), [(gated._META, 1), (gated._LINES, 2)])
def test_it_compiles_for_a_gpu(operation: int, lines: int) -> None:
    compiled(gated._gated, {"OP": operation, "K": lines}, MODES)


@pytest.mark.parametrize(("shape", "dim"), [((5,), 0), ((3, 4), 0), ((3, 4), -2)])
def test_inputs_without_samples_go_to_the_formula(shape: tuple[int, ...], dim: int) -> None:
    assert "samples" in gated.KERNELS["meta_acon"].refuses([torch.zeros(shape), dim])
    assert gated.KERNELS["meta_acon"].refuses([torch.zeros(3, 4), 1]) == ""
