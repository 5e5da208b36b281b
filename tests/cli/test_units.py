"""`actswap show` and `actswap fit`: what the units are, in the papers' numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import actswap
from actswap.activations.rational import RationalActivation
from actswap.cli.main import run


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Run a command with --json and return its object."""

    def ask(*arguments: str) -> dict:
        assert run([*arguments, "--json"]) == 0
        found: dict = json.loads(capsys.readouterr().out)
        return found

    return ask


@pytest.mark.parametrize("start", ["fit", "morph"])
def test_show_gives_the_coefficients_that_a_bundle_has_now(
    answer: Callable[..., dict], start: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.ReLU6()).eval()
    converted = actswap.convert(model, "hp1", torch.randn(16, 4), start=start, tolerance=1e4).model
    units = [m for m in converted.modules() if isinstance(m, RationalActivation)]
    with torch.no_grad():
        for unit in units:
            unit.coordinates.fill_(0.1)
    actswap.save(converted, tmp_path / "out")
    shown = answer("show", str(tmp_path / "out"))["units"]
    assert len(shown) == len(units) == 2
    for unit, found in zip(units, shown.values(), strict=True):
        for part, own in zip(("numerator", "denominator"), unit.coefficients(), strict=True):
            # One sum of ten products in float32, in another order.
            torch.testing.assert_close(torch.tensor(found[part][0]), own.detach(), rtol=1e-5, atol=1e-6)


def test_fit_shows_slopes_and_poles_and_fits_minimax(
    answer: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    (acon,) = answer("fit", "relu", "--to", "acon_c")["fits"]
    assert acon["unit"]["derivative"] == pytest.approx([-0.0998, 1.0998], abs=1e-4)
    square, largest = (answer("fit", "gelu", "--to", "pau", *more)["fits"][0] for more in ((), ("--minimax",)))
    assert largest["unit"]["poles"] == [[]] and len(largest["unit"]["numerator"][0]) == 6
    assert largest["error"] < square["error"] and square["rms"] < largest["rms"]
    assert run(["fit", "relu", "--to", "acon_c", "--minimax"]) == 2
    assert "Padé" in capsys.readouterr().err
