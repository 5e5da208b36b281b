"""What an activation exempts from weight decay does not decay."""

from __future__ import annotations

import pytest
from torch import nn

from actswap import activations
from actswap.train import param_groups


@pytest.mark.parametrize("name", [spec.name for spec in activations.TRAINABLE])
def test_what_a_specification_exempts_does_not_decay_and_matrices_do(name):
    module = activations.get(name).build(8)
    groups = {group["name"]: group for group in param_groups(nn.Sequential(module), weight_decay=0.1)}
    assert not groups.keys() - {"activations", "activation_weights"}
    exempt = {id(p) for p in groups["activations"]["params"]} if "activations" in groups else set()
    for path, parameter in module.named_parameters():
        named = path in activations.get(name).no_decay
        assert (id(parameter) in exempt) == (named or parameter.dim() < 2), path
    assert all(group["weight_decay"] == (0.1 if n == "activation_weights" else 0.0) for n, group in groups.items())
