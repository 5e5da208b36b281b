"""Swish, ACON-B and ACON-C in Triton: the formula's values and gradients, and code for a GPU."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from triton_runs import compiled, interpreted

from actswap.ops.triton import acon


def test_values_and_gradients_are_those_of_the_formula() -> None:
    interpreted("swish", "swish_layer", "acon_b", "acon_c", "acon_c_mixed")


def test_it_compiles_for_a_gpu() -> None:
    compiled(acon._acon, {}, ({"BACKWARD": False}, {"BACKWARD": True}))
