"""The search of the sharpness: few runs of the network, whatever the law of its error."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from actswap.conversion import choose_starts

TOLERANCE = 5e-4


def searched(law: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float, list[float]]:
    """What is found where the network's error is `law(sharpness)`, and the sharpnesses tried."""
    tried: list[float] = []
    monkeypatch.setattr(choose_starts, "load_start", lambda module, params: tried.append(params))
    starter: Any = SimpleNamespace(start=lambda choice, sharpness: SimpleNamespace(params=sharpness))
    limits: Any = [SimpleNamespace(path="a")]
    placed: Any = {"a": None}
    error = lambda: law(tried[-1])
    found, attained, last = choose_starts._smallest_sharpness(limits, placed, starter, TOLERANCE, error, None)
    assert last == tried[-1]
    return found, attained, tried


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.05, 1.0, 100.0])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_the_smallest_sharpness_within_the_tolerance(scale: float, power: float, monkeypatch: Any) -> None:
    best = max(1.0, (scale / TOLERANCE) ** (1 / power))
    found, attained, tried = searched(lambda k: scale / k**power, monkeypatch)
    assert attained == pytest.approx(scale / found**power) and attained <= TOLERANCE
    assert found <= 1.2 * best and len(tried) <= 6


@pytest.mark.parametrize("scale", [2.0, 10.0, 50.0])
def test_two_runs_find_it_when_the_error_is_that_of_a_smoothed_kink(scale: float, monkeypatch: Any) -> None:
    """The power law that the search predicts with; the first try is at 1000."""
    _, _, tried = searched(lambda k: scale / k**1.5, monkeypatch)
    assert len(tried) == 2


def test_an_error_that_falls_in_steps(monkeypatch: Any) -> None:
    found, attained, tried = searched(lambda k: 1e-2 if k < 777.0 else 1e-6, monkeypatch)
    assert 777.0 <= found <= 1.2 * 777.0 and attained == pytest.approx(1e-6, abs=1e-6) and len(tried) < 20


@pytest.mark.parametrize("error", [1.0, math.inf, math.nan])
def test_an_error_that_never_falls(error: float, monkeypatch: Any) -> None:
    found, attained, tried = searched(lambda k: error, monkeypatch)
    assert found == choose_starts._SHARPEST and attained > TOLERANCE and len(tried) < 400
