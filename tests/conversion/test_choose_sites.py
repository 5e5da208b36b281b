"""Every site is replaced or left with its reason, and a request that replaces nothing says why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
from actswap.conversion.choose_sites import choose_sites
from actswap.conversion.rules import read_rules
from actswap.conversion.survey import Survey, scan
from actswap.errors import UsageError


class Mixed(nn.Module):
    """Two activations, one of them the target already, a gate, and one in a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.gate, self.rnn = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.RNN(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.act(self.a(x)))
        y = y * torch.sigmoid(self.gate(y))
        return self.rnn(y)[0]


X = torch.randn(5, 4)


def surveyed(model: nn.Module) -> Survey:
    return scan(model, X).survey


def test_what_is_left_has_its_reason() -> None:
    found = surveyed(Mixed())
    chosen, left = choose_sites(found, read_rules("silu"), None, None, "Mixed")
    assert [site.name for site in chosen] == ["act"] and next(iter(chosen.values())).spec.name == "silu"
    reasons = {site.name: reason for site, reason in left}
    assert reasons["silu"] == "is silu already" and reasons["sigmoid"].startswith("gate: left alone")
    assert len(chosen) + len(left) == len(found.sites) and all(reasons.values())


def test_a_gate_that_is_selected_is_chosen_and_the_rest_is_not() -> None:
    chosen, left = choose_sites(surveyed(Mixed()), read_rules("tanh"), ["role:gate"], None, "Mixed")
    assert [site.name for site in chosen] == ["sigmoid"]
    assert {reason for site, reason in left if site.how != "left"} == {"not selected"}


def test_a_target_that_needs_channels_leaves_sites_without() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)

    found = surveyed(Flat())
    assert choose_sites(found, read_rules("acon_c"), None, None, "Flat")[0]
    with pytest.raises(UsageError, match="channel axis is not clear, and acon_frelu needs one"):
        choose_sites(found, read_rules("acon_frelu"), None, None, "Flat")


def test_requests_that_replace_nothing_say_why() -> None:
    with pytest.raises(UsageError, match="no activation found in Linear"):
        choose_sites(surveyed(nn.Linear(4, 4)), read_rules("acon_c"), None, None, "Linear")
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    converted = actswap.convert(model, "acon_c", X, verify=False).model
    with pytest.raises(UsageError, match="already converted"):
        choose_sites(surveyed(converted), read_rules("acon_c"), None, None, "Sequential")
    with pytest.raises(UsageError, match="is relu already"):
        choose_sites(surveyed(model), read_rules("relu"), None, None, "Sequential")
