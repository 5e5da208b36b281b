"""What is chosen, how it starts, and requests that are wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from conversion_nets import ROWS, X, net, rows, same_state, shape_of, state_of
from torch import Tensor, nn

import actswap
import actswap.errors
from actswap.activations.morph import Morph
from actswap.errors import CaptureError, SelectionError, StartError, UsageError, VerificationError
from actswap.plan import Plan

# --- what is chosen --------------------------------------------------------------------------------------------------


def test_only_and_skip() -> None:
    report = actswap.convert(net(), "acon_c", X, only="blocks.*", skip="blocks.1.*").report
    assert [r.site.name for r in report.replaced] == ["blocks.0.relu", "blocks.0.relu@1"]
    assert len(report.left) == 7 and {e.reason for e in report.left} >= {"not selected"}
    assert report.census is not None and report.census.complete
    report = actswap.convert(net(), "acon_c", X, skip=["blocks.0.relu@1", "act"]).report
    assert "blocks.0.relu" in [r.site.name for r in report.replaced]
    assert len(report.replaced) == 6


def test_one_call_of_a_shared_module() -> None:
    model = net()
    result = actswap.convert(model, "acon_c", X, only="blocks.0.relu")
    assert isinstance(result.model.blocks[0].relu, nn.ReLU), "the other call still uses it"
    assert result.report.ok and result.report.census.complete
    assert torch.equal(actswap.revert(result.model)(X), model(X))


def test_a_selector_that_matches_nothing() -> None:
    with pytest.raises(SelectionError, match="nearest: blocks"):
        actswap.convert(net(), "acon_c", X, only="block.0.relu")


def test_a_sigmoid_gate_on_request() -> None:
    result = actswap.convert(net(), "pau", X, only="gate")
    assert [r.site.name for r in result.report.replaced] == ["gate"]
    assert result.report.ok


# --- starts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "target", "start"),
    [
        (nn.SiLU(), "acon_c", "exact"),
        (nn.ReLU(), "acon_c", "limit"),
        (nn.GELU(), "pau", "fit"),
        (nn.ReLU(), "acon_c", "morph"),
        (nn.ReLU(), "pau", "morph"),
        (nn.Sigmoid(), "acon_c", "morph"),
        (nn.ReLU(), "acon_c", "none"),
        (nn.ReLU(), "dy_relu_b", "exact"),
    ],
)
def test_each_start_by_name(act: nn.Module, target: str, start: str) -> None:
    model = rows(act, nn.Linear(6, 6))
    result = actswap.convert(model, target, ROWS, start=start, tolerance=1e-2)
    assert [r.start for r in result.report.replaced] == [start]
    assert isinstance(result.model[1], Morph) == (start == "morph")
    if start == "none":
        assert not result.report.preserves
        assert "does not preserve" in result.report.replaced[0].note
    else:
        assert result.report.parity is not None and result.report.parity.rel <= 1e-2


@pytest.mark.parametrize(
    ("act", "target", "start"),
    [
        (nn.ReLU(), "acon_c", "exact"),
        (nn.GELU(), "acon_c", "limit"),
        (nn.SiLU(), "acon_c", "fit"),
        (nn.Sigmoid(), "acon_c", "exact"),
    ],
)
def test_a_start_that_does_not_exist(act: nn.Module, target: str, start: str) -> None:
    with pytest.raises(StartError, match=f"no {start} start") as caught:
        actswap.convert(rows(act, nn.Linear(6, 6)), target, ROWS, start=start)
    assert "1 (" in str(caught.value) and "morph" in caught.value.fix


def test_a_start_without_promise_cannot_fail_its_own_check() -> None:
    result = actswap.convert(net(), "acon_c", X, start="none")
    assert result.report.ok and result.report.parity is not None
    assert not result.report.preserves


def test_a_fit_that_is_too_coarse_fails_the_check() -> None:
    with pytest.raises(VerificationError, match="more than the tolerance") as caught:
        actswap.convert(rows(nn.ReLU(), nn.Linear(6, 6)), "pau", ROWS, start="fit", tolerance=1e-7)
    assert caught.value.where
    assert "morph" in caught.value.fix


def test_calibration_batches_in_the_forms_that_loaders_give() -> None:
    model = rows(nn.GELU())
    batches = [torch.randn(8, 6) for _ in range(3)]
    for data in (batches, ([b, torch.zeros(8)] for b in batches), [((b,), {}) for b in batches], iter(batches)):
        result = actswap.convert(model, "pau", ROWS, calibration=data, tolerance=1e-2)
        assert result.report.ok
    with pytest.raises(UsageError, match="calibration data is empty"):
        actswap.convert(model, "pau", ROWS, calibration=[])


# --- requests that are wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"target": "acon"}, UsageError, "no activation 'acon'"),
        ({"start": "best"}, UsageError, "unknown start 'best'"),
        ({"tolerance": 0.0}, UsageError, "tolerance"),
        ({"tolerance": -1.0}, UsageError, "tolerance"),
        ({"tolerance": math.nan}, UsageError, "tolerance"),
        ({"options": {"speed": 3}}, UsageError, "no option speed"),
        ({"target": "meta_acon", "options": {"space": "time"}}, UsageError, "space"),
        ({"example_inputs": torch.randn(2, 4, 8, 8)}, CaptureError, "does not run"),
        ({"example_inputs": torch.randn(2, 3)}, CaptureError, "does not run"),
    ],
)
def test_wrong_requests(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    model = net()
    state = state_of(model)
    with pytest.raises(error, match=text) as caught:
        actswap.convert(model, **{"target": "acon_c", "example_inputs": X, **arguments})
    assert caught.value.fix or caught.value.why
    assert same_state(model, state)


def test_no_activation_at_all() -> None:
    with pytest.raises(UsageError, match="no activation found"):
        actswap.convert(nn.Linear(6, 6), "acon_c", ROWS)


def test_options_reach_the_modules() -> None:
    result = actswap.convert(net(), "meta_acon", X, options={"space": "layer"})
    assert {c.options["space"] for c in result.plan.choices} == {"layer"}
    plan = Plan.from_dict(json.loads(json.dumps(result.plan.to_dict())))
    assert torch.equal(actswap.apply_plan(net(), plan)(X), result.model(X))


def test_already_converted() -> None:
    new = actswap.convert(net(), "acon_c", X, only="role:activation").model
    with pytest.raises(UsageError, match=r"already|nothing to replace"):
        actswap.convert(new, "meta_acon", X)


def test_the_rest_in_a_second_conversion() -> None:
    model = net()
    first = actswap.convert(model, "acon_c", X, only="blocks.*")
    second = actswap.convert(first.model, "meta_acon", X)
    assert {r.site.name for r in second.report.replaced} == {"act", "cap", "leaky_relu", "relu"}
    assert second.report.census is not None and second.report.census.complete
    assert second.report.ok
    back = actswap.revert(second.model)
    assert shape_of(back) == shape_of(net()) and same_state(back, state_of(model))
    assert torch.equal(back(X), model(X))
    plan = Plan.from_dict(json.loads(json.dumps(actswap.plan_of(second.model).to_dict())))
    again = actswap.apply_plan(net(), plan)
    again.load_state_dict(second.model.state_dict())
    assert torch.equal(again(X), second.model(X))
    assert torch.equal(actswap.revert(again)(X), model(X))


def test_the_other_call_of_a_shared_module_in_a_second_conversion() -> None:
    model = net()
    first = actswap.convert(model, "acon_c", X, only="blocks.0.relu")
    second = actswap.convert(first.model, "acon_c", X, only="blocks.0.relu@1")
    assert second.report.ok
    back = actswap.revert(second.model)
    assert shape_of(back) == shape_of(net())
    assert torch.equal(back(X), model(X))


class Flat(nn.Module):
    """Its second ReLU sees a value without channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b, self.flat = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.flat(self.b(self.act(self.a(x))).flatten())


def test_a_target_that_needs_channels_leaves_the_sites_that_have_none() -> None:
    report = actswap.convert(Flat(), "acon_frelu", ROWS).report
    assert [r.site.name for r in report.replaced] == ["act"]
    assert [(e.site.name, e.reason) for e in report.left] == [
        ("flat", "its channel axis is not clear, and acon_frelu needs one")
    ]
