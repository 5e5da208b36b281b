"""Traced forwards and the plans that are applied to them, also those made by earlier versions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actswap.capture.arguments import Arguments
from actswap.capture.island import trace
from actswap.conversion.passes.traced_forward import matches, only_way
from actswap.errors import CaptureError
from actswap.plan import Island


class Squares(nn.Module):
    """Two formulas that earlier versions saw as the calls inside them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.b(F.relu(x) * x)
        return self.c(x * torch.tanh(x))


def roots(*sources: str) -> list[str]:
    model, call = Squares(), Arguments.of((torch.zeros(1),), {})
    island = Island("", (call,), sources, ("",) * len(sources))
    found = matches(trace(model, call, frozenset()).evaluate, model, island)
    return [match.source.kind for _, match, _ in found if match is not None]


def test_a_plan_fits_by_the_formulas_or_by_the_calls_inside_them() -> None:
    assert roots("relu2", "lisht") == ["relu2", "lisht"]
    assert roots("relu", "tanh") == ["relu", "tanh"]
    with pytest.raises(CaptureError, match="does not show"):
        roots("relu", "gelu")


def test_only_one_reading_is_taken() -> None:
    assert only_way(["relu", "relu2", "tanh", "lisht"], ["relu", "tanh"]) == [0, 2]
    assert only_way(["relu", "tanh", "relu"], ["relu"]) is None
    assert only_way(["relu"], ["relu", "relu"]) is None
