"""Starts of the ACON family: limits within their bound, Swish exactly, and what is refused."""

from __future__ import annotations

import pytest
import torch
from activation_modules import ACONS, SLOPES, TWO_LINES, begun, error, grid

from actswap import activations
from actswap.activations.sharpness import GAP
from actswap.errors import StartError
from actswap.sites import Source


@pytest.mark.parametrize("beta", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("name", ACONS)
def test_acon_for_relu_reaches_its_bound_and_no_more(name: str, beta: float) -> None:
    """max |x sigmoid(beta x) - relu(x)| = 0.2784645 / beta, at beta |x| = 1.2784645."""
    module, start = begun(name, Source("relu"), beta)
    assert start.kind == "limit" == activations.get(name).promise(Source("relu"))
    assert start.bound == pytest.approx(0.2784645427610738 / beta, rel=1e-12)
    x = torch.tensor([1.2784645427610738 / beta, -1.2784645427610738 / beta, 0.0, 7.0], dtype=torch.float64)
    found = error(module, Source("relu"), x.reshape(1, 1, 1, -1).expand(2, 4, 1, -1))
    # log beta is stored in float32: beta itself is off by a relative 1e-6 at most.
    assert found.max().item() == pytest.approx(start.bound, rel=2e-6)
    assert error(module, Source("relu"), grid()).max() <= start.bound * (1 + 2e-6)


@pytest.mark.parametrize("name", TWO_LINES)
def test_acon_for_prelu_slopes_of_every_kind(name: str) -> None:
    """Slopes below 0, between, exactly 1 and above 1; the bound does not depend on them."""
    source = Source.of("prelu", slope=SLOPES)
    module, start = begun(name, source, 50.0)
    found = error(module, source, grid()).amax((0, 2, 3))
    assert start.kind == "limit" and start.bound == pytest.approx(GAP / 50)
    assert (found <= start.bound * (1 + 2e-6)).all()
    # Slope 1 is linear; float32 slopes stored (0.2) differ from the source's by 1e-8 relative.
    assert found[1] < 1e-6
    for channel in (0, 2, 3):
        assert found[channel].item() == pytest.approx(start.bound, rel=5e-3)


@pytest.mark.parametrize("name", TWO_LINES)
@pytest.mark.parametrize("slope", [0.01, 0.25, 1.0, 2.0])
def test_acon_for_leaky_relu(name: str, slope: float) -> None:
    source = Source.of("leaky_relu", slope=slope)
    module, start = begun(name, source, 200.0)
    assert start.kind == ("exact" if slope == 1.0 else "limit")
    assert error(module, source, grid()).max() <= start.bound * (1 + 2e-6) + 1e-6


@pytest.mark.parametrize("name", ACONS)
@pytest.mark.parametrize(
    "source",
    [
        Source("silu"),
        Source("quick_gelu"),
        Source.of("swish", beta=1.5),
        Source.of("swish", beta=(1.0, 2.0, -1.0, 0.5)),
    ],
    ids=str,
)
def test_acon_for_swish_is_exact(name: str, source: Source) -> None:
    module, start = begun(name, source)
    assert start.kind == "exact" == activations.get(name).promise(source)
    # Float32 storage of log beta: x sigmoid(beta x) moves by at most 0.44 / beta per relative change of beta.
    assert error(module, source, grid()).max() < 1e-6


@pytest.mark.parametrize("name", ACONS)
@pytest.mark.parametrize("kind", ["softplus", "sigmoid", "hardsigmoid", "star_relu", "logsigmoid"])
def test_acon_refuses_what_is_not_zero_at_zero(name: str, kind: str) -> None:
    assert activations.get(name).promise(Source(kind)) == "none"
    with pytest.raises(StartError, match="at 0"):
        begun(name, Source(kind))
