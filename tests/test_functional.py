"""The public functions are the torch operators that the modules call, and differentiable."""

import pytest
import torch

from actswap import functional, nn
from actswap.sites import Source

X = torch.linspace(-2, 2, 2 * 3 * 5, dtype=torch.float64).reshape(2, 3, 5)


@pytest.mark.parametrize(
    ("name", "module", "parameters"),
    [
        ("acon_b", nn.AconB(3), lambda m: (m.p, m.beta)),
        ("acon_c", nn.AconC(3), lambda m: (m.p1, m.p2, m.beta)),
        ("swish", nn.Swish(3), lambda m: (m.beta,)),
        ("acon_a", nn.AconA(3), lambda m: (m.beta,)),
    ],
)
def test_a_function_computes_what_its_module_does(name, module, parameters):
    module.double()
    assert torch.equal(getattr(functional, name)(X, *parameters(module), 1), module(X))


@pytest.mark.parametrize("name", ["acon_b", "acon_c", "swish"])
def test_gradients_of_every_argument_follow_finite_differences(name):
    generator = torch.Generator().manual_seed(0)
    count = {"acon_b": 2, "acon_c": 3, "swish": 1}[name]
    values = [torch.rand(3, generator=generator, dtype=torch.float64) + 0.2 for _ in range(count)]
    inputs = [t.requires_grad_() for t in (X.clone(), *values)]
    assert torch.autograd.gradcheck(lambda *a: getattr(functional, name)(*a, 1), inputs)


def test_all_resolves_and_plain_functions_are_named_by_a_source():
    assert all(callable(getattr(functional, name)) for name in functional.__all__)
    assert torch.equal(functional.evaluate(Source.of("leaky_relu", slope=0.5), X), torch.where(X >= 0, X, X * 0.5))
