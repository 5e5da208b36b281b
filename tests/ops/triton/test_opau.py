"""OPAU in Triton: the formula's values and gradients in several bases, and code for a GPU."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from triton_runs import compiled, interpreted

from actswap.ops.triton import opau


def test_values_and_gradients_are_those_of_the_formula() -> None:
    interpreted("opau_t", "opau_he", "opau_unsafe", "opau_lag")


def test_it_compiles_for_a_gpu() -> None:
    compiled(opau._opau, {"P": 4, "Q": 2, "TOP": 3, "SAFE": True}, ({"BACKWARD": False}, {"BACKWARD": True}))
