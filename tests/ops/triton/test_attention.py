"""DY-ReLU C in Triton: the attention around the kernel of DY-ReLU has the formula's values and gradients."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from triton_runs import interpreted

from actswap.ops.triton.gated import KERNELS


def test_values_and_gradients_are_those_of_the_formula() -> None:
    interpreted("dy_relu_c", "dy_relu_c_3")


def test_what_the_lines_refuse_is_refused() -> None:
    args = [torch.zeros(3, 4), *[torch.zeros(1)] * 8, 10.0, 3.0]
    assert "samples" in KERNELS["dy_relu_c"].refuses([*args, 0]) and KERNELS["dy_relu_c"].refuses([*args, 1]) == ""
