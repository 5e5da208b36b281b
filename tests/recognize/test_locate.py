"""Who makes each activation call, under which name, at which width, and what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import actswap
import actswap.errors
from actswap.sites import Site

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
EXACT = 1e-5  # SiLU to ACON-C is exact to rounding


def module_of(forward: Callable[..., Any], **children: nn.Module) -> nn.Module:
    """A module with these children and this forward; `a` and `b` are linear layers of width 6 unless given."""
    torch.manual_seed(0)
    module = type("Made", (nn.Module,), {"forward": forward})()
    for name, child in {"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), **children}.items():
        module.add_module(name, child)
    return module.eval()


def scan(model: nn.Module, x: Any) -> list[Site]:
    return actswap.scan(model, x)


def names(model: nn.Module, x: Any) -> list[str]:
    return [s.name for s in scan(model, x)]


def check(model: nn.Module, x: Any, **options: Any) -> nn.Module:
    """Convert every site, whatever its role, and compare; sites of SiLU begin exactly, others as they can."""
    result = actswap.convert(model, "acon_c", x, **options)
    report = result.report
    assert report.census is not None and report.census.complete
    assert actswap.verify(model, result.model, x).rel <= report.tolerance
    return result.model


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_module_called_once_has_its_own_name_and_is_swapped() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Sequential(nn.Linear(6, 6), nn.SiLU()))
    sites = scan(model, ROWS)
    assert [(s.name, s.form, s.how, s.owner, s.child) for s in sites] == [
        ("1", "module", "swap", "", "1"),
        ("2.1", "module", "swap", "2", "1"),
    ]
    new = check(model, ROWS)
    assert type(new) is nn.Sequential
    assert type(new[1]).__name__ == "AconC"


def test_a_module_called_three_times_is_three_sites() -> None:
    model = module_of(lambda self, x: self.act(self.b(self.act(self.a(self.act(x))))), act=nn.SiLU())
    sites = scan(model, ROWS)
    assert [(s.name, s.how, s.calls) for s in sites] == [
        ("act", "island", 1),
        ("act@1", "island", 1),
        ("act@2", "island", 1),
    ]
    new = check(model, ROWS)
    parameters = [p for n, p in new.named_parameters() if "act" in n]
    assert len({id(p) for p in parameters}) == len(parameters) == 9  # p1, p2, log_beta for each


def test_shared_module_at_several_widths() -> None:
    model = module_of(
        lambda self, x: self.act(self.c(self.act(self.a(x)))), act=nn.ReLU(inplace=True), c=nn.Linear(6, 11)
    )
    assert [(s.name, s.channels) for s in scan(model, ROWS)] == [("act", 6), ("act@1", 11)]
    check(model, ROWS)


def test_functional_calls_are_named_after_the_module_that_makes_them() -> None:
    inner = module_of(lambda self, x: F.silu(self.b(torch.tanh(F.silu(self.a(x))))))
    model = nn.Sequential(inner, nn.Linear(6, 6))
    sites = scan(model, ROWS)
    assert [(s.name, s.form, s.owner) for s in sites] == [
        ("0.silu", "function", "0"),
        ("0.tanh", "function", "0"),
        ("0.silu@1", "function", "0"),
    ]
    check(model, ROWS)
    assert [s.name for s in scan(module_of(lambda self, x: self.a(F.silu(x))), ROWS)] == ["silu"]


def test_methods_and_inplace_forms() -> None:
    model = module_of(lambda self, x: self.b(self.a(x).relu_()).sigmoid().relu())
    assert [(s.name, s.form, s.inplace) for s in scan(model, ROWS)] == [
        ("relu", "method", True),
        ("sigmoid", "method", False),
        ("relu@1", "method", False),
    ]
    check(model, ROWS)


def test_a_function_and_a_module_of_the_same_name() -> None:
    model = module_of(lambda self, x: self.silu(self.b(F.silu(self.a(x)))), silu=nn.SiLU())
    sites = scan(model, ROWS)
    assert sorted(s.name for s in sites) == ["silu", "silu@1"]
    result = actswap.convert(model, "acon_c", ROWS, tolerance=EXACT)
    assert len(result.plan.choices) == 2
    assert result.report.census is not None and result.report.census.complete
    assert len({c.path for c in result.plan.choices}) == 2
    assert type(actswap.revert(result.model).silu) is nn.SiLU


@pytest.mark.parametrize("chosen", ["silu", "silu@1"])
def test_one_of_a_function_and_a_module_of_the_same_name(chosen: str) -> None:
    model = module_of(lambda self, x: self.silu(self.b(F.silu(self.a(x)))), silu=nn.SiLU())
    new = check(model, ROWS, only=chosen)
    back = actswap.revert(new)
    assert type(back.silu) is nn.SiLU
    assert list(back._modules) == list(model._modules)


def test_a_function_kept_in_an_attribute_of_its_own_name() -> None:
    model = module_of(lambda self, x: self.b(self.gelu(self.a(x))))
    model.gelu = F.gelu
    (site,) = scan(model, ROWS)
    assert site.name == "gelu"
    new = check(model, ROWS)
    assert new.gelu is F.gelu


def test_site_names_do_not_depend_on_gates_being_there() -> None:
    """The name of a site is its position among calls of the same name only."""
    model = module_of(lambda self, x: self.b(F.silu(self.a(x)) * torch.sigmoid(self.a(x))) + F.silu(x))
    assert names(model, ROWS) == ["silu", "sigmoid", "silu@1"]


def test_the_line_of_the_call_is_told() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.act(self.a(x))
        return F.silu(y)

    first, second = scan(module_of(forward, act=nn.SiLU()), ROWS)
    start = forward.__code__.co_firstlineno
    assert [s.line.rpartition(":")[2] for s in (first, second)] == [str(start + 1), str(start + 2)]
    assert all(s.line.startswith(__file__) for s in (first, second))


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_one_instance_under_two_names() -> None:
    act = nn.SiLU()
    model = module_of(lambda self, x: self.act2(self.b(self.act1(self.a(x)))), act1=act, act2=act)
    sites = scan(model, ROWS)
    assert len(sites) == 2
    new = check(model, ROWS)
    made = [m for m in new.modules() if type(m).__name__ == "AconC"]
    assert len(made) == 2
    back = actswap.revert(new)
    assert back.act1 is back.act2
    assert list(back._modules) == list(model._modules)


def test_one_instance_in_two_owners() -> None:
    act = nn.SiLU()
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6), act), nn.Sequential(nn.Linear(6, 9), act))
    sites = scan(model, ROWS)
    assert [s.channels for s in sites] == [6, 9]
    assert len({s.name for s in sites}) == 2
    back = actswap.revert(check(model, ROWS))
    assert back[0][1] is back[1][1]


def test_one_instance_twice_in_a_sequential() -> None:
    act = nn.SiLU()
    model = nn.Sequential(nn.Linear(6, 6), act, nn.Linear(6, 9), act)
    sites = scan(model, ROWS)
    assert [s.channels for s in sites] == [6, 9]
    new = check(model, ROWS)
    assert type(new).__mro__[1] is nn.Sequential or type(new) is nn.Sequential
    back = actswap.revert(new)
    assert back[1] is back[3]


def test_a_shared_block_is_one_site() -> None:
    """Weights shared: the target is shared too."""
    block = nn.Sequential(nn.Linear(6, 6), nn.SiLU())
    model = nn.Sequential(block, block, nn.Linear(6, 6))
    (site,) = scan(model, ROWS)
    assert site.calls == 2
    check(model, ROWS)


def test_a_head_on_several_levels_is_one_site_of_many_sizes() -> None:
    head = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    model = module_of(lambda self, x: [self.head(x), self.head(F.avg_pool2d(x, 2))], head=head)
    (site,) = scan(model, IMAGE)
    assert (site.name, site.calls, site.channels, site.how) == ("head.1", 2, 5, "swap")
    check(model, IMAGE)


def test_a_head_at_several_widths_gets_one_set_per_layer() -> None:
    model = module_of(lambda self, x: self.act(self.c(self.wrap(self.a(x)))), act=nn.SiLU(), c=nn.Linear(6, 9))
    model.wrap = nn.Sequential(model.act)
    sites = scan(model, ROWS)
    assert sum(s.calls for s in sites) == 2
    check(model, ROWS)


# --- where activations hide ------------------------------------------------------------------------------------------

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
    model = module_of(lambda self, x: self.b(self.acts[0](self.a(x))))
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


# --- roles -----------------------------------------------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.conv, self.down, self.up, self.act, self.gate = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 8, 1),
            nn.ReLU(),
            gate,
        )
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        s = self.gate(self.up(self.act(self.down(y.mean((2, 3), keepdim=True)))))
        return self.out(y * s)


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid()], ids=["sigmoid", "hardsigmoid"])
def test_squeeze_and_excite(gate: nn.Module) -> None:
    model = SqueezeExcite(gate).eval()
    assert [(s.name, s.role) for s in scan(model, IMAGE)] == [("act", "activation"), ("gate", "gate")]
    result = actswap.convert(model, "acon_c", IMAGE)
    (left,) = result.report.left
    assert left.site.name == "gate"
    assert "gate" in left.reason
    assert type(result.model.gate) is type(gate)
    result = actswap.convert(model, "pau", IMAGE, only="role:gate")
    assert [r.site.name for r in result.report.replaced] == ["gate"]


def test_gated_linear_units() -> None:
    model = module_of(lambda self, x: self.b(F.silu(self.a(x)) * self.a(x)))
    assert [(s.name, s.role, s.how) for s in scan(model, ROWS)] == [("silu", "activation", "island")]

    def geglu(self: nn.Module, x: Tensor) -> Tensor:
        y, g = self.c(x).chunk(2, -1)
        return self.b(y * F.gelu(g))

    model = module_of(geglu, c=nn.Linear(6, 12))
    assert [(s.name, s.role, s.channels) for s in scan(model, ROWS)] == [("gelu", "activation", 6)]
    model = nn.Sequential(nn.Linear(6, 12), nn.GLU(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6))
    glu, silu = scan(model, ROWS)
    assert (glu.source.kind, glu.role, glu.how) == ("glu", "gate", "left")
    assert "gate" in glu.reason
    assert silu.name == "3"
    check(model, ROWS)


def test_a_sigmoid_at_the_output_is_a_gate_and_one_between_layers_an_activation() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 1), nn.Sigmoid())
    assert [s.role for s in scan(model, ROWS)] == ["activation", "gate"]
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    assert [s.role for s in scan(model, ROWS)] == ["activation"]
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.SiLU(), nn.Linear(6, 1))
    assert [s.role for s in scan(model, ROWS)] == ["activation", "activation"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_listed_with_their_reason(kind: type[nn.RNNBase]) -> None:
    model = module_of(lambda self, x: self.b(self.act(self.rnn(x)[0])), rnn=kind(6, 6, batch_first=True), act=nn.SiLU())
    x = torch.randn(2, 5, 6)
    sites = {s.name: s for s in scan(model, x)}
    assert sites["rnn"].how == "left"
    assert "recurrent" in sites["rnn"].reason
    result = actswap.convert(model, "acon_c", x)
    assert [r.site.name for r in result.report.replaced] == ["act"]
    assert "rnn" in [entry.site.name for entry in result.report.left]
    assert result.report.ok


# --- channels --------------------------------------------------------------------------------------------------------

CONV = nn.Conv2d(3, 5, 3, padding=1)


def nhwc(self: nn.Module, x: Tensor) -> Tensor:
    return self.c(F.silu(self.d(self.conv(x).permute(0, 2, 3, 1))))


def tokens(self: nn.Module, x: Tensor) -> Tensor:
    return self.c(F.silu(self.d(self.conv(x).flatten(2).transpose(1, 2))))


def sequence(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.one(self.conv(x).flatten(2)))


def volume(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.three(x[:, :, None]))


def pooled(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.conv(x)).mean((2, 3))


def vector(self: nn.Module, x: Tensor) -> Tensor:
    return self.c(F.silu(self.d(self.conv(x).mean((2, 3)))))


def concatenated(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(torch.cat([self.conv(x), x], 1))


def halves(self: nn.Module, x: Tensor) -> Tensor:
    y, z = self.wide(x).chunk(2, dim=1)
    return F.silu(y) + z


def sliced(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.wide(x)[:, :4])


def normalised(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.norm(self.conv(x).permute(0, 2, 3, 1)))


def before_layer(self: nn.Module, x: Tensor) -> Tensor:
    return self.conv(F.silu(x))


def added(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(self.conv(x) + self.conv(x).mean((2, 3), keepdim=True))


def reshaped(self: nn.Module, x: Tensor) -> Tensor:
    y = self.conv(x)
    return F.silu(y.reshape(y.shape[0], y.shape[1], -1))


def upsampled(self: nn.Module, x: Tensor) -> Tensor:
    return F.silu(F.interpolate(self.conv(x), scale_factor=2.0))


def flattened(self: nn.Module, x: Tensor) -> Tensor:
    return self.flat(F.silu(self.conv(x).flatten(1)))


@pytest.mark.parametrize(
    ("forward", "channels", "dim"),
    [
        (pooled, 5, 1),
        (nhwc, 7, -1),
        (tokens, 7, -1),
        (sequence, 9, 1),
        (volume, 4, 1),
        (vector, 7, 1),
        (concatenated, 8, 1),
        (halves, 5, 1),
        (sliced, 4, 1),
        (normalised, 5, -1),
        (before_layer, 3, 1),
        (added, 5, 1),
        (reshaped, 5, 1),
        (upsampled, 5, 1),
        (flattened, 5 * 64, 1),
    ],
)
def test_channel_axis(forward: Callable[..., Tensor], channels: int, dim: int) -> None:
    children = {
        "conv": CONV,
        "d": nn.Linear(5, 7),
        "c": nn.Linear(7, 5),
        "one": nn.Conv1d(5, 9, 3),
        "three": nn.Conv3d(3, 4, 1),
        "wide": nn.Conv2d(3, 10, 1),
        "norm": nn.LayerNorm(5),
        "flat": nn.Linear(320, 2),
    }
    model = module_of(forward, **children)
    (site,) = scan(model, IMAGE)
    assert (site.channels, site.channel_dim) == (channels, dim)
    new = check(model, IMAGE, tolerance=EXACT)
    (target,) = (m for m in new.modules() if type(m).__name__ == "AconC")
    assert target.p1.shape == (channels,)
    other = torch.randn(3, 3, 8, 8)
    assert actswap.verify(model, new, other).rel <= EXACT


def test_attention_kernels_have_no_channels() -> None:
    """ReLU attention: the activation acts on the scores, whose axes are positions."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        q, k, v = self.a(x), self.b(x), x
        return self.b(F.relu(q @ k.transpose(1, 2)) @ v)

    x = torch.randn(2, 5, 6)
    model = module_of(forward)
    (site,) = scan(model, x)
    assert site.channels is None
    new = check(model, x)
    longer = torch.randn(2, 9, 6)
    assert actswap.verify(model, new, longer).rel < 5e-3


# --- library layers --------------------------------------------------------------------------------------------------


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
