"""PAU in Triton: the formula's values and gradients in every form, and code for a GPU."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from triton_runs import compiled, interpreted

from actswap.ops.triton import pau


def test_values_and_gradients_are_those_of_the_formula() -> None:
    interpreted("pau_a", "pau_a_channel", "pau_b", "pau_c", "pau_32")


def test_it_compiles_for_a_gpu() -> None:
    compiled(pau._pau, {"P": 4, "Q": 2, "FORM": 1}, ({"BACKWARD": False}, {"BACKWARD": True}))
