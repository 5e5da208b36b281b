"""Costs of activations at sites."""

from __future__ import annotations

import pytest
import torch
from search_toy import small

import actswap
from actswap.errors import UsageError
from actswap.search.site_costs import KEEP, site_costs

SITES = actswap.scan(small(), torch.zeros(2, 1, 8, 8))
CHOICES = (KEEP, "relu", "acon_c", "meta_acon(space=layer)", "x*sigmoid(beta*x)")


def test_parameters() -> None:
    costs = site_costs(SITES, CHOICES, "parameters")
    assert costs["act", KEEP] == costs["act", "relu"] == 0
    assert costs["act", "acon_c"] == 3 * 4 and costs["act", "x*sigmoid(beta*x)"] == 4


def test_flops_are_those_of_the_observed_input() -> None:
    costs = site_costs(SITES, CHOICES, "flops")
    assert costs["act", "x*sigmoid(beta*x)"] == 3 * 2 * 4 * 3 * 3 and costs["act", KEEP] == costs["act", "relu"]


def test_latency_is_measured_once_for_equal_sites() -> None:
    said: list[str] = []
    sites = [SITES[0], SITES[0]]
    costs = site_costs(sites, (KEEP, "swish"), "latency", rounds=3, progress=lambda *s: said.append(s[2]))
    assert len(said) == 2 and all(cost > 0 for cost in costs.values())


def test_a_cost_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="one of latency, parameters, flops"):
        site_costs(SITES, CHOICES, "energy")
    with pytest.raises(UsageError, match="no activation 'acon_x'"):
        site_costs(SITES, ("acon_x",), "flops")
