"""The plain activations: their gradients, and the functions that the Swish search found."""

from __future__ import annotations

import pytest
import torch
from activation_modules import line, sample

from actswap.activations.plain import PLAIN, SourceModule, evaluate
from actswap.sites import Source

SEARCHED = {
    "max_sigmoid": lambda x: torch.maximum(x, 1 / (1 + torch.exp(-x))),
    "cos_minus": lambda x: torch.cos(x) - x,
    "min_sin": lambda x: torch.minimum(x, torch.sin(x)),
    "atan2_minus": lambda x: torch.atan(x) ** 2 - x,
    "max_tanh": lambda x: torch.maximum(x, torch.tanh(x)),
    "sinc_plus": lambda x: torch.where(x == 0, 1.0, torch.sin(x) / torch.where(x == 0, 1.0, x)) + x,
    "x_asinh2": lambda x: x * torch.asinh(x) ** 2,
}


@pytest.mark.parametrize("kind", SEARCHED)
def test_functions_found_by_the_search(kind: str) -> None:
    x = line(401)
    torch.testing.assert_close(evaluate(Source(kind), x), SEARCHED[kind](x))


@pytest.mark.parametrize("kind", PLAIN)
def test_gradients_of_plain_activations(kind: str) -> None:
    x = sample(3, 7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate(Source(kind), x), (x,))
    if kind != "hardsigmoid":  # torch itself has no second derivative of it
        assert torch.autograd.gradgradcheck(lambda x: evaluate(Source(kind), x), (x,))


def test_channels_have_constants_of_their_own() -> None:
    """One constant for each channel gives what each channel gives alone, on any axis."""
    x, slopes = line(41).expand(2, 3, -1), (0.1, -0.5, 2.0)
    y = evaluate(Source.of("prelu", slope=slopes), x)
    for c, slope in enumerate(slopes):
        assert torch.equal(y[:, c], evaluate(Source.of("prelu", slope=slope), x[:, c]))
    assert torch.equal(evaluate(Source.of("prelu", slope=slopes), x.movedim(1, -1), -1), y.movedim(1, -1))


def test_trained_constants_are_parameters_of_the_module() -> None:
    source = Source("prelu", (("slope", (0.1, 0.2)),), trained=(("slope", "act.weight"),))
    module, x = SourceModule(source), torch.tensor([[-1.0, -1.0], [2.0, 3.0]])
    module(x).sum().backward()
    assert module(x).tolist() == [[pytest.approx(-0.1), pytest.approx(-0.2)], [2.0, 3.0]]
    assert module.slope.grad.tolist() == [-1.0, -1.0] and set(module.state_dict()) == {"slope"}
