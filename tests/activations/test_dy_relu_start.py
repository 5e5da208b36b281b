"""Starts of DY-ReLU: exact for a maximum of lines, refused for what is not convex."""

from __future__ import annotations

import pytest
import torch
from activation_modules import DYNAMIC, SLOPES, begun, error, grid

from actswap import activations
from actswap.errors import StartError
from actswap.sites import Source


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize(
    "source",
    [
        Source("relu"),
        Source.of("leaky_relu", slope=0.25),
        Source.of("prelu", slope=(0.25, 1.0, 0.0, -0.5)),
        Source("identity"),
    ],
    ids=str,
)
def test_dy_relu_is_exact(name: str, k: int, source: Source) -> None:
    module, start = begun(name, source, k=k)
    assert start.kind == "exact" == activations.get(name).promise(source)
    x = grid() + torch.randn(2, 4, 1, 1, dtype=torch.float64)
    # A and B to the bit (slopes are powers of two); C carries the rounding of 1/n sums in the softmax.
    assert error(module, source, x).max() <= (1e-12 if name == "dy_relu_c" else 0.0)


@pytest.mark.parametrize("name", DYNAMIC)
def test_dy_relu_relu_is_exact_in_float32(name: str) -> None:
    module, _ = begun(name, Source("relu"))
    x = torch.randn(3, 4, 7, 9)
    torch.testing.assert_close(module.float()(x), x.relu(), rtol=1e-6 * (name == "dy_relu_c"), atol=0)


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("source", [Source.of("prelu", slope=SLOPES), Source("tanh"), Source("sigmoid")], ids=str)
def test_dy_relu_refuses_what_is_not_convex(name: str, source: Source) -> None:
    """A maximum of lines is convex: slopes above 1 bend the other way."""
    assert activations.get(name).promise(source) == "none"
    with pytest.raises(StartError, match="convex"):
        begun(name, source)


def test_dy_relu_of_one_line_cannot_be_relu() -> None:
    with pytest.raises(StartError, match="bend"):
        begun("dy_relu_b", Source("relu"), k=1)
