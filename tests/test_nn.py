"""The public modules: every trainable activation is among them, and plain functions are built by name."""

import pytest
import torch
import torch.nn.functional as F

import actswap
from actswap import activations
from actswap.activations.plain import PLAIN
from actswap.errors import UsageError


def test_every_trainable_activation_has_its_class_in_the_public_face():
    public = {getattr(actswap.nn, name) for name in actswap.nn.__all__}
    for spec in activations.TRAINABLE:
        assert type(spec.build(4)) in public, spec.name


def test_all_resolves():
    assert all(hasattr(actswap.nn, name) for name in actswap.nn.__all__)


def test_a_plain_function_is_built_by_name_with_its_constants():
    x = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(actswap.nn.plain("leaky_relu", slope=0.3)(x), F.leaky_relu(x, 0.3))
    assert all(actswap.nn.plain(name)(x).isfinite().all() for name in PLAIN)
    with pytest.raises(UsageError, match=r"leekyrelu.*(?s:.*)leaky_relu"):
        actswap.nn.plain("leekyrelu")
    with pytest.raises(UsageError, match=r"no constant 'alpha'(?s:.*)slope"):
        actswap.nn.plain("leaky_relu", alpha=0.3)
