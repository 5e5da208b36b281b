"""The ways in which an activation can be called, and the layers that have one inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import EXACT, ROWS, check, module_of, names, scan
from torch import Tensor, nn

import actswap
import actswap.errors

ACT2FN = {"silu": nn.SiLU(), "gelu": F.gelu}
GLOBAL = nn.SiLU()


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class StarReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(1) * 0.9), nn.Parameter(torch.zeros(1) - 0.4)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.relu(x) ** 2 + self.bias


class SquaredReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.square(self.relu(x))


class SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x * torch.sigmoid(x)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s * (1 + x * (1 - s)))


class MemoryEfficientSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return SwishFunction.apply(x)


def test_unregistered_modules_are_sites_of_their_caller() -> None:
    hidden = [nn.SiLU()]

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = ACT2FN["silu"](self.a(x))
        y = GLOBAL(self.b(y))
        y = hidden[0](y)
        return self.a(nn.SiLU()(y))

    model = module_of(forward)
    assert names(model, ROWS) == ["silu", "silu@1", "silu@2", "silu@3"]
    check(model, ROWS, tolerance=EXACT)


def test_a_module_kept_in_a_plain_list_attribute() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.b(self.acts[0](self.a(x)))

    model = module_of(forward)
    model.acts = [nn.SiLU()]
    assert names(model, ROWS) == ["silu"]
    check(model, ROWS, tolerance=EXACT)


@pytest.mark.parametrize("keep", [lambda f: f, lambda f: [f], lambda f: {"act": f}], ids=["attribute", "list", "dict"])
def test_functions_kept_in_attributes(keep: Callable[[Any], Any]) -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        f = self.act
        f = f[0] if isinstance(f, list) else f["act"] if isinstance(f, dict) else f
        return self.b(f(self.a(x)))

    model = module_of(forward)
    model.act = keep(F.silu)
    assert names(model, ROWS) == ["silu"]
    check(model, ROWS, tolerance=EXACT)


def test_a_class_of_the_users_own_is_swapped_whole() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Custom(), nn.Linear(6, 6))
    (site,) = scan(model, ROWS)
    assert (site.name, site.source.kind, site.form, site.how) == ("1", "silu", "module", "swap")
    check(model, ROWS, tolerance=EXACT)


@pytest.mark.parametrize(("kind", "source"), [(StarReLU, "star_relu"), (SquaredReLU, "relu2")])
def test_wrappers_are_one_site(kind: type[nn.Module], source: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), kind(), nn.Linear(6, 6))
    (site,) = scan(model, ROWS)
    assert (site.name, site.source.kind, site.how) == ("1", source, "swap")
    result = actswap.convert(model, "acon_c", ROWS)
    assert result.report.ok
    assert actswap.revert(result.model).state_dict().keys() == model.state_dict().keys()


def test_an_autograd_function_inside_a_module() -> None:
    model = nn.Sequential(nn.Linear(6, 6), MemoryEfficientSwish(), nn.Linear(6, 6))
    sites = scan(model, ROWS)
    assert [(s.name, s.source.kind) for s in sites] == [("1", "silu")]
    check(model, ROWS)


def test_parts_of_a_formula_in_children_of_the_owner() -> None:
    model = module_of(lambda self, x: self.b(self.a(x) * self.gate(self.a(x))), gate=nn.Sigmoid())
    assert [(s.source.kind, s.role) for s in scan(model, ROWS)] == [("sigmoid", "gate")]

    def silu(self: nn.Module, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y * self.gate(y))

    model = module_of(silu, gate=nn.Sigmoid())
    (site,) = scan(model, ROWS)
    assert (site.source.kind, site.form, site.how) == ("silu", "formula", "island")
    back = actswap.revert(check(model, ROWS, tolerance=EXACT))
    assert type(back.gate) is nn.Sigmoid


def test_floatfunctional_add_relu() -> None:
    model = module_of(
        lambda self, x: self.b(self.ff.add_relu(self.a(x), x)), ff=torch.ao.nn.quantized.FloatFunctional()
    )
    (site,) = scan(model, ROWS)
    assert site.source.kind == "relu"
    assert site.how != "left", site.reason
    check(model, ROWS)


@pytest.mark.parametrize("activation", ["relu", "gelu", F.silu])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.filterwarnings("ignore:.*nested_tensor.*")
def test_transformer_encoder(activation: Any, norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, activation=activation, batch_first=True, norm_first=norm_first)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)).eval()
    x = torch.randn(2, 5, 16)
    sites = scan(model, x)
    assert [s.how for s in sites] == ["island", "island"], [s.reason for s in sites]
    assert [s.channels for s in sites] == [32, 32]
    new = check(model, x)
    with torch.no_grad():
        fast = new(x)  # eval mode without gradients is where torch's fused kernel would go past the activation
    slow = new(x)
    torch.testing.assert_close(fast, slow)
    with torch.no_grad():
        for p in new[0].layers[0].parameters():
            if p.shape == (32,):
                p.add_(0.5)
        assert not torch.allclose(new(x), fast, atol=1e-3), "the new parameters act in eval mode"
    assert isinstance(new[0].layers[0], nn.TransformerEncoderLayer)


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
def test_transformer_encoder_with_padding() -> None:
    """With a padding mask torch's encoder packs its input into a nested tensor, for layers with their own kernel."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, mask = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    new = actswap.convert(model, "acon_c", (x,), {"src_key_padding_mask": mask}).model
    with torch.no_grad():
        expected, out = model(x, src_key_padding_mask=mask), new(x, src_key_padding_mask=mask)
    torch.testing.assert_close(out[~mask], expected[~mask], atol=5e-3, rtol=5e-3)


def test_multihead_attention_stays_usable() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.mlp, self.act = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 16), None
            self.act = nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.attention(x, x, x, need_weights=False)
            return self.act(self.mlp(x + y))

    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(2, 5, 16)
    assert [s.name for s in scan(model, x)] == ["act"]
    new = check(model, x)
    with torch.no_grad():
        fast = new(x)
    torch.testing.assert_close(fast, new(x), atol=1e-5, rtol=1e-4)


def test_an_activation_called_by_keyword() -> None:
    class Named(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return F.silu(value)

    model = module_of(lambda self, x: self.own(value=self.b(self.act(input=self.a(x)))), act=nn.SiLU(), own=Named())
    assert [s.how for s in scan(model, ROWS)] == ["island", "island"]
    check(model, ROWS, tolerance=EXACT)


def test_a_shared_module_that_is_not_in_place_keeps_its_input() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = self.a(x)
        y = self.act(h)
        return self.act(self.b(y + h)) + h

    model = module_of(forward, act=nn.ReLU())
    result = actswap.convert(model, "acon_c", ROWS)
    assert result.report.left == ()
    assert len(result.report.replaced) == 2


def test_scan_does_not_change_the_model() -> None:
    model = module_of(lambda self, x: self.act(self.b(self.act(self.a(x)))), act=nn.SiLU(), bn=nn.BatchNorm1d(6))
    model.train()
    before = [(n, type(m), m.training, sorted(vars(m))) for n, m in model.named_modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    call = nn.Module.__call__
    scan(model, ROWS)
    assert nn.Module.__call__ is call
    assert [(n, type(m), m.training, sorted(vars(m))) for n, m in model.named_modules()] == before
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())


def test_a_model_that_does_not_run_says_where() -> None:
    with pytest.raises(actswap.errors.CaptureError, match="does not run on the example inputs") as caught:
        scan(nn.Sequential(nn.Linear(6, 6), nn.SiLU()), torch.randn(2, 5))
    assert "(2, 5)" in caught.value.why


def test_the_line_is_the_users_or_none() -> None:
    """In a plain nn.Sequential no line of the user's makes the call."""
    (site,) = actswap.scan(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3))
    assert site.line == ""
