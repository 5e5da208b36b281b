"""What `convert` and `revert` promise, on small networks that have every form of call."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
import actswap.errors
from actswap.activations.bounded import Bounded
from actswap.activations.morph import Morph
from actswap.activations.plain import evaluate
from actswap.errors import CaptureError, SelectionError, StartError, UsageError, VerificationError
from actswap.plan import Plan

TARGETS = ["acon_c", "meta_acon", "dy_relu_b", "pau", "swish", "silu"]


class Residual(nn.Module):
    """A block as in torchvision's ResNet: one in-place ReLU, called twice."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.down = nn.Conv2d(width, out, 1) if width != out else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class Net(nn.Module):
    """Module, shared module, functional, method, PReLU, ReLU6, GELU, squeeze-and-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 6, 3, padding=1), nn.PReLU(6)
        self.blocks = nn.Sequential(Residual(6, 6), Residual(6, 8))
        self.se, self.gate = nn.Conv2d(8, 8, 1), nn.Sigmoid()
        self.wide, self.cap = nn.Conv2d(8, 10, 1), nn.ReLU6(inplace=True)
        self.head, self.out = nn.Linear(10, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act(self.stem(x)))
        x = x * self.gate(self.se(x.mean((2, 3), keepdim=True)))
        x = self.cap(self.wide(x)).mean((2, 3))
        x = F.leaky_relu(self.head(x), 0.2)
        return self.out(x.relu())

    def helper(self) -> str:
        return "mine"


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def net() -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.act.weight.copy_(torch.tensor([0.25, 1.5, -0.3, 1.0, 0.0, 2.0]))
        for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            bn.running_mean.normal_(0, 0.1)
            bn.weight.uniform_(0.5, 1.5)
    return model


def rows(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), *layers, nn.Linear(6, 6)).eval()


def same_state(a: nn.Module, b: dict[str, Tensor]) -> bool:
    state = a.state_dict()
    return list(state) == list(b) and all(torch.equal(v, b[k]) for k, v in state.items())


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def shape_of(model: nn.Module) -> list[Any]:
    rows = [(n, type(m), m.training, list(m._modules), list(m._parameters)) for n, m in model.named_modules()]
    return [*rows, *[(sorted(vars(m)),) for m in model.modules()]]


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


# --- in-place and aliases --------------------------------------------------------------------------------------------


def alias(forward: Callable[..., Tensor], **children: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = type("Alias", (nn.Module,), {"forward": forward})()
    for name, child in {"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), **children}.items():
        model.add_module(name, child)
    return model.eval()


def read_after(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    y = F.relu(x, inplace=True)
    return self.b(x + y)


def read_after_module(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    y = self.act(x)
    return self.b(x + y)


def bare_method(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    x.relu_()
    return self.b(x)


def bare_function(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    F.relu_(x)
    return self.b(x) + x


def bare_module(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    self.act(x)
    return self.b(x) + x


def twice_in_place(self: nn.Module, x: Tensor) -> Tensor:
    x = self.a(x)
    F.relu(x, inplace=True)
    F.leaky_relu(x, 0.1, inplace=True)
    return self.b(x)


def returned(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    self.act(h)
    return h


def overwritten_input(self: nn.Module, x: Tensor) -> Tensor:
    """A ResNet with pre-activation in place: the shortcut is what the activation wrote."""
    h = self.a(x)
    return self.b(self.act(h)) + h


def formula_in_place(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    h.mul_(torch.sigmoid(h))
    return self.b(h) + h


def through_a_view(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    h.view(-1).relu_()
    return self.b(h)


def through_a_slice(self: nn.Module, x: Tensor) -> Tensor:
    h = self.a(x)
    h[:, :3].relu_()
    return self.b(h) + h


def augmented(self: nn.Module, x: Tensor) -> Tensor:
    """`h += 1` writes to what `z` names too; a trace makes a new tensor of it."""
    h = self.a(x)
    z = h
    h += 1
    return self.b(F.relu(h)) + z


ALIASES = [
    augmented,
    read_after,
    read_after_module,
    bare_method,
    bare_function,
    bare_module,
    twice_in_place,
    returned,
    overwritten_input,
    formula_in_place,
    through_a_view,
    through_a_slice,
]


HARD = (through_a_view, through_a_slice, augmented)


@pytest.mark.parametrize("forward", ALIASES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("target", ["acon_c", "gelu"])
def test_an_alias_is_kept_or_the_site_is_left(forward: Callable[..., Tensor], target: str) -> None:
    model = alias(forward, act=nn.ReLU(inplace=True))
    sites = actswap.scan(model, ROWS)
    assert sites
    try:
        result = actswap.convert(model, target, ROWS)
    except UsageError as error:
        assert forward in HARD, error
        return
    report = result.report
    assert report.ok and report.census is not None and report.census.complete
    assert len(report.replaced) + len(report.left) == len(sites)
    if forward not in HARD:
        assert not report.left
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(8))
    assert actswap.verify(model, result.model, x).rel <= 10 * report.tolerance
    assert torch.equal(actswap.revert(result.model)(ROWS), model(ROWS))


def test_the_input_is_not_overwritten_by_the_target() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 6)).eval()
    new = actswap.convert(model, "acon_c", ROWS.clone()).model
    x = ROWS.clone()
    new(x)
    assert torch.equal(x, ROWS)


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "cap"), [(nn.ReLU6(), 6.0), (nn.Hardtanh(), 1.0), (nn.Hardtanh(-2.0, 0.5), 0.5), (nn.Hardtanh(0, 4.0), 4.0)]
)
def test_caps_are_kept(act: nn.Module, cap: float) -> None:
    model = rows(act)
    with torch.no_grad():
        model[0].weight.mul_(20)
    result = actswap.convert(model, "acon_c", ROWS)
    placed = result.model[1]
    assert isinstance(placed, Bounded) and placed.cap == cap
    assert placed(torch.full((1, 6), 50.0)).max().item() == cap
    x = torch.linspace(-10, 10, 606).reshape(-1, 6)
    assert (placed(x) - act(x)).abs().max().item() <= result.report.replaced[0].bound * 1.01


@pytest.mark.parametrize("before", ["linear", "conv"])
@pytest.mark.parametrize("target", ["acon_c", "meta_acon", "dy_relu_b"])
def test_prelu_slopes_of_every_sign_and_size(before: str, target: str) -> None:
    slopes = [0.25, 1.0, 1.7, -0.4, 0.0, 3.0]
    torch.manual_seed(0)
    prelu = nn.PReLU(6)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor(slopes))
    if before == "linear":
        model, x = nn.Sequential(nn.Linear(6, 6), prelu, nn.Linear(6, 6)).eval(), ROWS
    else:
        model, x = nn.Sequential(nn.Conv2d(3, 6, 3), prelu, nn.Conv2d(6, 2, 1)).eval(), X
    result = actswap.convert(model, target, x)
    (row,) = result.report.replaced
    assert row.site.source.get("slope") == pytest.approx(tuple(slopes))
    assert row.start in ("limit", "exact", "morph")
    if target != "dy_relu_b":
        assert row.start == "limit"
        assert torch.equal(torch.as_tensor(result.model[1].p2), torch.tensor(slopes))
    back = actswap.revert(result.model)
    assert torch.equal(back[1].weight, prelu.weight) and list(back.state_dict()) == list(model.state_dict())


def test_prelu_with_no_layer_around_it() -> None:
    model = nn.Sequential(nn.PReLU(3)).eval()
    (site,) = actswap.scan(model, X)
    assert (site.channels, site.channel_dim) == (3, 1)
    assert actswap.convert(model, "meta_acon", X).report.ok


def test_parts_of_a_formula_that_others_read() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = self.a(x)
        s = torch.sigmoid(h)
        r = F.relu(h)
        return self.b(h * s + r**2) * s + r

    model = alias(forward)
    result = actswap.convert(model, "acon_c", ROWS)
    assert result.report.ok and result.report.census is not None and result.report.census.complete
    assert sorted(r.site.source.kind for r in result.report.replaced) == ["relu", "relu2", "silu"]


def test_prelu_of_one_slope() -> None:
    model = rows(nn.PReLU(init=0.4))
    result = actswap.convert(model, "acon_c", ROWS)
    assert result.report.replaced[0].site.source.get("slope") == pytest.approx(0.4)
    assert result.model[1].p2.tolist() == pytest.approx([0.4] * 6)


@pytest.mark.parametrize("act", [nn.LeakyReLU(0.3), nn.LeakyReLU()])
def test_leaky_slopes_are_taken_over(act: nn.LeakyReLU) -> None:
    result = actswap.convert(rows(act), "acon_c", ROWS)
    assert result.model[1].p2.tolist() == pytest.approx([act.negative_slope] * 6)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_variants_stay_apart(approximate: str) -> None:
    model = rows(nn.GELU(approximate=approximate))
    result = actswap.convert(model, "acon_c", ROWS, start="morph")
    assert result.report.replaced[0].site.source.kind == ("gelu" if approximate == "none" else "gelu_tanh")
    assert torch.equal(result.model(ROWS), model(ROWS))


@pytest.mark.parametrize(
    "act",
    [
        nn.ReLU(),
        nn.ReLU6(),
        nn.LeakyReLU(),
        nn.PReLU(),
        nn.ELU(),
        nn.CELU(0.5),
        nn.SELU(),
        nn.SiLU(),
        nn.GELU(),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.Hardtanh(),
        nn.Mish(),
        nn.Softplus(),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Softsign(),
        nn.LogSigmoid(),
        nn.Tanhshrink(),
        nn.Hardshrink(),
        nn.Softshrink(),
        nn.Threshold(0.1, 0.0),
        nn.RReLU(),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize("target", ["acon_c", "pau"])
def test_every_torch_activation_can_be_replaced(act: nn.Module, target: str) -> None:
    model = rows(act)
    result = actswap.convert(model, target, ROWS, tolerance=1e-2)
    assert [r.site.name for r in result.report.replaced] == ["1"]
    assert result.report.ok
    morphed = actswap.convert(model, target, ROWS, start="morph")
    # (1 - 0) * source + 0 * target: the source's own bits, but for a value computed by torch's kernel in another way.
    torch.testing.assert_close(morphed.model(ROWS), model(ROWS), atol=1e-6, rtol=1e-6)


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


# --- in place --------------------------------------------------------------------------------------------------------


def test_in_place() -> None:
    model = net()
    expected, weights = model(X), {id(p) for p in model.parameters()}
    result = actswap.convert(model, "acon_c", X, inplace=True)
    assert result.model is model
    kept = {id(p) for p in model.parameters()} & weights
    assert len(kept) == len(weights) - 1, "the weights are the same tensors, but for PReLU's"
    assert torch.equal(actswap.revert(model, inplace=True)(X), expected)
    assert shape_of(model) == shape_of(net())


@pytest.mark.parametrize(
    "arguments",
    [
        {"start": "fit", "target": "pau", "tolerance": 1e-9},
        {"start": "exact"},
        {"target": "meta_acon", "options": {"space": "time"}},
        {"calibration": []},
        {"only": "nothing"},
        {"tolerance": -1.0},
    ],
)
def test_a_failure_in_place_leaves_the_model_as_it_was(arguments: dict[str, Any]) -> None:
    model = net()
    before, state = shape_of(model), state_of(model)
    with pytest.raises(actswap.errors.ActswapError):
        actswap.convert(model, **{"target": "acon_c", "example_inputs": X, "inplace": True, **arguments})
    assert shape_of(model) == before
    assert same_state(model, state)


def test_an_interrupt_in_place_leaves_the_model_as_it_was() -> None:
    model = net()
    before, state = shape_of(model), state_of(model)

    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("sharpness"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        actswap.convert(model, "acon_c", X, inplace=True, progress=stop)
    assert shape_of(model) == before
    assert same_state(model, state)


def test_a_model_that_is_itself_an_activation() -> None:
    class Swish(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(x)

    for model in (nn.ReLU(), Swish()):
        result = actswap.convert(model, "acon_c", ROWS)
        assert result.report.ok
        assert type(actswap.revert(result.model)) is type(model)


def test_hooks_of_the_user_stay() -> None:
    model = net()
    seen: list[str] = []
    model.blocks[0].register_forward_hook(lambda m, i, o: seen.append("block"))
    model.head.register_forward_pre_hook(lambda m, i: seen.append("head"))
    new = actswap.convert(model, "acon_c", X).model
    seen.clear()
    new(X)
    assert seen == ["block", "head"]


def test_random_state_is_not_consumed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    actswap.scan(net_without_seed(), X)
    assert torch.equal(torch.rand(3), expected)


_KEPT = net()


def net_without_seed() -> nn.Module:
    return _KEPT


def test_weights_that_are_tied_stay_tied() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6), nn.SiLU()).eval()
    model[2].weight = model[0].weight
    new = actswap.convert(model, "acon_c", ROWS).model
    assert new[2].weight is new[0].weight
    back = actswap.revert(new)
    assert back[2].weight is back[0].weight


class Caching(nn.Module):
    """Keeps a computed tensor in a dict, as LevIT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act, self.cache = nn.Linear(4, 4), nn.ReLU(), {}

    def forward(self, x: Tensor) -> Tensor:
        self.cache["weight"] = self.linear.weight * 2
        return self.act(self.linear(x))


def test_a_model_that_keeps_computed_tensors_is_copied() -> None:
    model, x = Caching().eval(), torch.randn(2, 4)
    model(x)
    assert model.cache["weight"].grad_fn is not None
    result = actswap.convert(model, "dy_relu_b", x)
    result.model(x)
    assert torch.equal(actswap.revert(result.model)(x), model(x))


def test_a_kept_original_follows_the_network() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.PReLU(4)).eval(), torch.randn(2, 4)
    back = actswap.revert(actswap.convert(model, "acon_c", x).model.double())
    assert {p.dtype for p in back.parameters()} == {torch.float64}
    torch.testing.assert_close(back(x.double()), model.double()(x.double()), rtol=0, atol=0)


def test_inference_mode_outside_leaves_trainable_parameters() -> None:
    with torch.inference_mode():
        model = actswap.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "acon_c", torch.randn(2, 4)).model
    model(torch.randn(2, 4)).sum().backward()
    assert model.get_parameter("1.p1").grad is not None
