"""A report is ok if nothing failed: census, proof, and outputs within what its starts allow."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import actswap
from actswap.checks.check import Check, Proof
from actswap.conversion.outcome import Report


@pytest.fixture(scope="module")
def report() -> Report:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 3))
    return actswap.convert(model, "swish", torch.randn(8, 4), verify="outputs").report


def test_a_conversion_that_keeps_everything_is_ok(report: Report) -> None:
    assert report.ok and report.preserves and [r.start for r in report.replaced] == ["exact"]


def test_each_part_that_fails_is_enough(report: Report) -> None:
    assert report.census is not None and report.parity is not None
    assert not replace(report, census=replace(report.census, complete=False)).ok
    assert not replace(report, proof=Proof((Check("gradients", False, "lost"),))).ok
    assert not replace(report, parity=replace(report.parity, rel=2 * report.tolerance)).ok


def test_what_proved_nothing_did_not_fail(report: Report) -> None:
    assert replace(report, proof=Proof((Check("autocast", None, "not proved"),))).ok
    assert replace(report, parity=None, census=None).ok


def test_a_start_without_promise_may_change_the_outputs(report: Report) -> None:
    assert report.parity is not None
    none = replace(report, replaced=tuple(replace(r, start="none") for r in report.replaced))
    assert not none.preserves and replace(none, parity=replace(report.parity, rel=9.0)).ok


def test_exact_starts_are_held_to_the_rounding_of_outputs_that_hardly_vary(report: Report) -> None:
    assert report.parity is not None
    faint = replace(report.parity, rel=0.01, rounding=0.02)
    assert replace(report, parity=faint, tolerance=1e-3).ok
    limit = replace(report, replaced=tuple(replace(r, start="limit") for r in report.replaced))
    assert not replace(limit, parity=faint, tolerance=1e-3).ok


def test_it_is_plain_json(report: Report) -> None:
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is True and data["replaced"][0]["site"]["name"] == "1" and data["proof"] is None
