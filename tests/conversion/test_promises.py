"""What every conversion keeps: function, class, keys, precision, tolerance."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conversion_nets import TARGETS, Net, Residual, X, net, rows, same_state, shape_of, state_of
from torch import nn

import actswap
import actswap.errors
from actswap.activations.morph import Morph
from actswap.activations.plain import evaluate
from actswap.errors import UsageError
from actswap.plan import Plan

# --- what every conversion keeps -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TARGETS)
def conversion(request: pytest.FixtureRequest) -> tuple[Net, Any]:
    model = net()
    return model, actswap.convert(model, request.param, X)


def test_parity_and_census(conversion: tuple[Net, Any]) -> None:
    model, result = conversion
    report = result.report
    assert report.ok and report.parity.rel <= report.tolerance
    assert report.census.complete and report.census.replaced == 8
    assert [r.site.name for r in report.replaced] == [
        "act",
        "blocks.0.relu",
        "blocks.0.relu@1",
        "blocks.1.relu",
        "blocks.1.relu@1",
        "cap",
        "leaky_relu",
        "relu",
    ]
    assert [(entry.site.name, entry.site.role) for entry in report.left] == [("gate", "gate")]
    assert actswap.verify(model, result.model, X).rel <= report.tolerance
    other = torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(5))
    # Not what was promised on, but of the same distribution: the same order of magnitude.
    assert actswap.verify(model, result.model, other).rel <= 10 * report.tolerance


def test_class_methods_and_keys_are_kept(conversion: tuple[Net, Any]) -> None:
    model, result = conversion
    new = result.model
    assert isinstance(new, Net) and type(new).__name__ == "Net" and new.helper() == "mine"
    assert isinstance(new.blocks[0], Residual)
    kept = [k for k in model.state_dict() if k != "act.weight"]
    state = new.state_dict()
    assert all(torch.equal(state[k], model.state_dict()[k]) for k in kept)
    paths = tuple(f"{c.path}." for c in result.plan.choices)
    assert all(k in kept or k.startswith(paths) for k in state)
    assert str(new)


def test_the_original_is_not_touched(conversion: tuple[Net, Any]) -> None:
    model, _ = conversion
    fresh = net()
    assert shape_of(model) == shape_of(fresh)
    assert same_state(model, state_of(fresh))
    assert torch.equal(model(X), fresh(X))


def test_revert_is_bit_exact(conversion: tuple[Net, Any]) -> None:
    model, result = conversion
    before = state_of(result.model)
    back = actswap.revert(result.model)
    assert shape_of(back) == shape_of(net())
    assert same_state(back, state_of(model))
    assert torch.equal(back(X), model(X))
    assert same_state(result.model, before), "a copy was reverted"
    twin = copy.deepcopy(result.model)
    assert actswap.revert(twin, inplace=True) is twin
    assert same_state(twin, state_of(model))
    with pytest.raises(UsageError, match="was not converted"):
        actswap.revert(twin)


def test_the_plan_applies_to_a_fresh_copy(conversion: tuple[Net, Any]) -> None:
    _, result = conversion
    text = json.dumps(result.plan.to_dict(), allow_nan=False)
    plan = Plan.from_dict(json.loads(text))
    assert json.dumps(plan.to_dict()) == text
    again = actswap.apply_plan(net(), plan)
    again.load_state_dict(result.model.state_dict())
    assert torch.equal(again(X), result.model(X))
    straight = actswap.apply_plan(net(), plan)
    if result.report.target not in ("meta_acon", "dy_relu_b"):  # these draw their hidden layers
        assert same_state(straight, state_of(result.model))
    assert torch.equal(straight(X), result.model(X))
    assert torch.equal(actswap.revert(straight)(X), net()(X))
    with pytest.raises(UsageError, match="another model"):
        actswap.apply_plan(rows(nn.ReLU()), plan)


def test_it_trains(conversion: tuple[Net, Any]) -> None:
    model, result = conversion
    new = copy.deepcopy(result.model).train()
    old = {id(p) for p in new.parameters() if any(torch.equal(p, q) for q in model.parameters())}
    for module in new.modules():
        if isinstance(module, Morph):
            module.t = 0.5  # at t = 0 the target has no share, and its parameters no gradient
    target = torch.tensor([0, 1])
    optimizer = torch.optim.SGD(new.parameters(), lr=0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(new(X), target)
        loss.backward()
        for name, p in new.named_parameters():
            if id(p) not in old:
                assert p.grad is not None and p.grad.isfinite().all(), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_deepcopy_is_independent(conversion: tuple[Net, Any]) -> None:
    _, result = conversion
    twin = copy.deepcopy(result.model)
    assert torch.equal(twin(X), result.model(X))
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert not torch.equal(twin(X), result.model(X))
    assert torch.equal(actswap.revert(copy.deepcopy(result.model))(X), net()(X))


@pytest.mark.parametrize("training", [False, True])
def test_torch_export(conversion: tuple[Net, Any], training: bool) -> None:
    _, result = conversion
    new = copy.deepcopy(result.model).train(training)
    if training:
        for m in new.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()
    program = torch.export.export(new, (X,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},))
    wide = torch.cat([X, X, X])
    torch.testing.assert_close(program.module(check_guards=False)(wide), new(wide))


def test_torch_compile(conversion: tuple[Net, Any]) -> None:
    _, result = conversion
    new = copy.deepcopy(result.model)
    torch.compiler.reset()
    compiled = torch.compile(new, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), new(X))


def test_double(conversion: tuple[Net, Any]) -> None:
    _, result = conversion
    new = copy.deepcopy(result.model).double()
    out = new(X.double())
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), result.model(X), atol=1e-4, rtol=1e-3)


# --- other precisions and places -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["acon_c", "meta_acon", "pau"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_precision_of_the_network_is_kept(target: str, dtype: torch.dtype) -> None:
    model, x = net().to(dtype), X.to(dtype)
    result = actswap.convert(model, target, x, tolerance=0.03 if dtype == torch.bfloat16 else 1e-3)
    assert result.report.ok
    assert result.model(x).dtype == dtype
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert torch.equal(actswap.revert(result.model)(x), model(x))


@pytest.mark.parametrize("target", TARGETS)
def test_meta_device(target: str) -> None:
    with torch.device("meta"):
        model, x = Net().eval(), torch.randn(2, 3, 8, 8)
    result = actswap.convert(model, target, x)
    assert len(result.report.replaced) == 7
    assert [e.site.name for e in result.report.left if "meta" in e.reason] == ["act"]
    assert all(t.is_meta for t in (*result.model.parameters(), *result.model.buffers()))
    assert result.model(x).shape == (2, 4)
    again = actswap.apply_plan(net(), result.plan)
    assert again(X).isfinite().all()


def test_convert_without_gradients() -> None:
    with torch.no_grad():
        result = actswap.convert(net(), "acon_c", X)
    assert result.report.ok
    assert all(p.requires_grad for p in result.model.parameters())
    result.model.train()(X).sum().backward()


def test_frozen_parameters_stay_frozen() -> None:
    model = net().requires_grad_(False)
    new = actswap.convert(model, "acon_c", X).model
    names = {n for n, p in new.named_parameters() if not p.requires_grad}
    assert names == {n for n, _ in model.named_parameters()} - {"act.weight"}


# --- tolerance -------------------------------------------------------------------------------------------------------


def test_a_smaller_tolerance_gives_a_sharper_start() -> None:
    betas, errors = [], []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        report = actswap.convert(net(), "acon_c", X, tolerance=tolerance).report
        assert report.parity is not None and report.parity.rel <= tolerance
        betas.append(next(r.beta for r in report.replaced if r.site.name == "relu"))
        errors.append(report.parity.rel)
    assert betas == sorted(betas) and betas[0] < betas[-1]
    assert errors == sorted(errors, reverse=True)


def test_bounds_hold_at_every_site() -> None:
    result = actswap.convert(net(), "acon_c", X)
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    for row, choice in zip(result.report.replaced, result.plan.choices, strict=True):
        module = copy.deepcopy(result.model.get_submodule(choice.path)).double()
        grid = x[:, None].expand(-1, choice.site.channels)
        error = float((module(grid) - evaluate(choice.site.source, grid)).detach().abs().max())
        assert row.bound is not None
        slack = max(1.0, max((abs(1 - s) for s in _slopes(choice.site.source.get("slope"))), default=1.0))
        assert error <= row.bound * slack + 1e-6


def _slopes(value: Any) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)
