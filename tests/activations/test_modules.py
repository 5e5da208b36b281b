"""The modules: checkpoints, state, devices and types, training, morphs, schedules, simplification."""

from __future__ import annotations

import copy
import functools
import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from actswap import activations
from actswap import nn as AN
from actswap.activations.base import Activation, StartContext
from actswap.activations.plain import PLAIN, SourceModule, evaluate
from actswap.activations.simplify import closest_plain, simplify
from actswap.errors import UsageError
from actswap.fit.histogram import Histogram
from actswap.sites import Source

TRAINABLE = [spec.name for spec in activations.TRAINABLE]
EVERY = pytest.mark.parametrize("name", TRAINABLE)
C = 6


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The same module with every parameter moved a little."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return module


def built(name: str, **options: object) -> nn.Module:
    return randomised(activations.get(name).build(C, 1, **options))


def sample(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*(shape or (2, C, 4, 5)), generator=torch.Generator().manual_seed(seed))


@EVERY
def test_state_round_trip_and_copy(name: str) -> None:
    first, x = built(name), sample()
    second = activations.get(name).build(C, 1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x)) and torch.equal(first(x), copy.deepcopy(first)(x))


@EVERY
def test_every_parameter_trains(name: str) -> None:
    """A finite gradient everywhere, and a loss that falls."""
    module, x = built(name), sample(8, C, 4, 5)
    target = F.gelu(x)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (module(x) - target).square().mean()
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
        optimizer.step()
    assert losses[-1] < losses[0]


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_module_in_another_type(name: str, dtype: torch.dtype) -> None:
    module, x = built(name), sample()
    if name == "acon_frelu" and dtype == torch.float16:
        pytest.skip("no float16 convolution on every CPU")
    y = module.to(dtype)(x.to(dtype))
    assert y.dtype == dtype and y.isfinite().all()


@EVERY
def test_mixed_precision_training_step(name: str) -> None:
    module, x = built(name), sample()
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x.bfloat16())
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())


@EVERY
def test_torch_export_with_any_batch_and_size(name: str) -> None:
    module, dims = built(name).eval(), [torch.export.Dim(n) for n in "nhw"]
    sizes = ({0: dims[0], 2: dims[1], 3: dims[2]},)
    program = torch.export.export(module, (sample(2, C, 8, 9),), dynamic_shapes=sizes)
    x = sample(3, C, 5, 7)
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize(
    "make",
    [
        *(functools.partial(built, name) for name in TRAINABLE),
        lambda: built("meta_acon", space="layer", pool="sum"),
        lambda: built("meta_acon", space="pixel"),
        lambda: built("meta_acon", bn=True),
        lambda: built("dy_relu_b", normalizer="hard_sigmoid"),
        lambda: built("dy_relu_c", normalizer="hard_sigmoid"),
        lambda: built("acon_frelu", bn=True),
        lambda: AN.Bounded(built("acon_c"), -0.5, 1.0),
        lambda: AN.Morph(AN.plain("gelu"), built("acon_c"), 0.3),
    ],
)
def test_first_and_second_gradients_of_modules(make) -> None:
    module, x = make().double().eval(), sample(2, C, 2, 3).double().requires_grad_()
    names = [n for n, _ in module.named_parameters()]

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    inputs = (x, *(p.detach().clone().requires_grad_() for p in module.parameters()))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", PLAIN)
def test_gradients_of_plain_activations(kind: str) -> None:
    x = sample(3, 7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate(Source(kind), x), (x,))
    if kind != "hardsigmoid":  # torch itself has no second derivative of it
        assert torch.autograd.gradgradcheck(lambda x: evaluate(Source(kind), x), (x,))


@EVERY
@pytest.mark.parametrize(
    ("shape", "dim"), [((3, C), 1), ((3, C, 5), 1), ((2, C, 2, 3, 2), 1), ((2, 5, C), -1), ((2, 3, 4, C), -1)]
)
def test_layouts(name: str, shape: tuple[int, ...], dim: int) -> None:
    """A module on another axis computes what it computes on axis 1."""
    options = {}
    if name == "acon_frelu" and len(shape) > 4:
        options = {"spatial": len(shape) - 2}
    first = built(name, **options)
    other = activations.get(name).build(C, dim, **options)
    other.load_state_dict(first.state_dict())
    x = sample(*shape)
    torch.testing.assert_close(other(x), first(x.movedim(dim, 1)).movedim(1, dim))


@pytest.mark.parametrize("name", [n for n in TRAINABLE if n != "acon_frelu"])
def test_one_set_per_layer(name: str) -> None:
    module = activations.get(name).build(None, 1)
    assert all(p.shape[0] != C or p.numel() == C for p in module.parameters())
    assert module(sample()).shape == (2, C, 4, 5) and module(sample(2, 9)).shape == (2, 9)


@EVERY
def test_names_that_weight_decay_spares_exist(name: str) -> None:
    spec = activations.get(name)
    assert set(spec.no_decay) <= {n for n, _ in spec.build(C, 1).named_parameters()}


@EVERY
def test_options_are_those_of_build(name: str) -> None:
    spec = activations.get(name)
    module = spec.build(C, 1, **spec.options)
    assert set(module.state_dict()) == set(spec.build(C, 1).state_dict())
    assert spec.flops is not None and spec.flops(module, (2, C, 4, 5)) >= 2 * C * 20


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_targets_build(kind: str) -> None:
    if kind in activations.SPECS and kind != "swish":
        spec = activations.get(kind)
        x = sample().abs() + 0.1
        assert torch.equal(spec.build(C, 1, **spec.options)(x), evaluate(Source(kind), x))


# Checkpoints of the original implementations


def test_original_acon_c_checkpoint() -> None:
    g = torch.Generator().manual_seed(0)
    saved = {key: torch.randn(1, C, 1, 1, generator=g) for key in ("p1", "p2", "beta")}
    module = AN.AconC(C)
    module.load_state_dict(saved)
    x = sample()
    d = saved["p1"] - saved["p2"]
    torch.testing.assert_close(module(x), d * x * torch.sigmoid(saved["beta"] * d * x) + saved["p2"] * x)
    assert (saved["beta"] < 0).any()  # the sign is kept


def test_original_meta_acon_checkpoint() -> None:
    """Convolution weights (H, C, 1, 1), BatchNorms, p1 and p2 (1, C, 1, 1), inside a larger model."""
    hidden = 16
    original = nn.ModuleDict(
        {
            "fc1": nn.Conv2d(C, hidden, 1),
            "bn1": nn.BatchNorm2d(hidden),
            "fc2": nn.Conv2d(hidden, C, 1),
            "bn2": nn.BatchNorm2d(C),
        }
    )
    randomised(original)
    x = sample(4, C, 5, 5)
    for part in ("bn1", "bn2"):
        original[part].running_mean.uniform_(-0.1, 0.1)
    saved = OrderedDict((f"act.{k}", v) for k, v in original.state_dict().items())
    saved["act.p1"], saved["act.p2"] = sample(1, C, 1, 1, seed=5), sample(1, C, 1, 1, seed=6)
    model = nn.ModuleDict({"act": AN.MetaAcon(C, bn=True)})
    model.load_state_dict(saved)
    for training in (False, True):
        original.train(training)
        model.train(training)
        z = x.mean((2, 3), keepdim=True)
        for part in ("fc1", "bn1", "fc2", "bn2"):
            z = original[part](z)
        p1, p2 = saved["act.p1"], saved["act.p2"]
        d = p1 - p2
        expected = d * x * torch.sigmoid(torch.sigmoid(z) * d * x) + p2 * x
        torch.testing.assert_close(model["act"](x), expected, rtol=1e-5, atol=1e-6)


def test_yolov5_meta_acon_checkpoint() -> None:
    fc1, fc2 = nn.Conv2d(C, 16, 1), nn.Conv2d(16, C, 1)
    saved = {
        **{f"fc1.{k}": v for k, v in fc1.state_dict().items()},
        **{f"fc2.{k}": v for k, v in fc2.state_dict().items()},
        "p1": sample(1, C, 1, 1),
        "p2": sample(1, C, 1, 1, seed=4),
    }
    module = AN.MetaAcon(C)
    module.load_start({"scale": 7.0})
    module.load_state_dict(saved)  # the paper's form: scale 1
    x = sample()
    d = saved["p1"] - saved["p2"]
    beta = torch.sigmoid(fc2(fc1(x.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(module(x), d * x * torch.sigmoid(beta * d * x) + saved["p2"] * x)


def test_batch_norm_on_one_sample_says_what_to_do() -> None:
    module = AN.MetaAcon(C, bn=True)
    with pytest.raises(UsageError, match="bn=False"):
        module(sample(1, C, 4, 4))
    module.eval()(sample(1, C, 4, 4))


@pytest.mark.parametrize("shared", [True, False], ids=["A", "B"])
@pytest.mark.parametrize("k", [2, 3])
def test_dy_relu_checkpoint_of_islanna(shared: bool, k: int) -> None:
    """fc2 rows ordered channel by channel, a_1 .. a_K, b_1 .. b_K within each."""
    hidden, rows = 4, 2 * k * (1 if shared else C)
    saved = {
        "fc1.weight": sample(hidden, C, seed=1),
        "fc1.bias": sample(hidden, seed=2),
        "fc2.weight": sample(rows, hidden, seed=3),
        "fc2.bias": sample(rows, seed=4),
        "lambdas": torch.tensor([1.0] * k + [0.5] * k),
        "init_v": torch.tensor([1.0] + [0.0] * (2 * k - 1)),
    }
    module = (AN.DyReLUA if shared else AN.DyReLUB)(C, k=k, hidden=hidden)
    module.load_state_dict(saved)
    x = sample()
    z = F.relu(x.mean((2, 3)) @ saved["fc1.weight"].T + saved["fc1.bias"]) @ saved["fc2.weight"].T
    theta = (2 * torch.sigmoid(z + saved["fc2.bias"]) - 1).reshape(2, -1, 2 * k)
    coef = theta * saved["lambdas"] + saved["init_v"]
    lines = x.unsqueeze(-1) * coef[:, :, None, None, :k] + coef[:, :, None, None, k:]
    torch.testing.assert_close(module(x), lines.amax(-1))


@pytest.mark.parametrize("keys", [("fc.0", "fc.2"), ("conv1.conv", "conv2.conv")], ids=["DynamicHead", "mmdet"])
def test_dy_relu_checkpoint_of_microsoft(keys: tuple[str, str]) -> None:
    """Blocks a1, b1, a2, b2 of C rows, hard sigmoid."""
    hidden = 4
    layers = [nn.Linear(C, hidden), nn.Linear(hidden, 4 * C)]
    saved = {
        f"{key}.{k}": v * 3 for key, layer in zip(keys, layers, strict=True) for k, v in layer.state_dict().items()
    }
    module = AN.DyReLUB(C, hidden=hidden, normalizer="hard_sigmoid")
    module.load_state_dict(saved)
    x = sample()
    z = F.relu(x.mean((2, 3)) @ saved[f"{keys[0]}.weight"].T + saved[f"{keys[0]}.bias"])
    h = F.hardsigmoid(z @ saved[f"{keys[1]}.weight"].T + saved[f"{keys[1]}.bias"]).reshape(2, 4 * C, 1, 1)
    a1, b1, a2, b2 = h.split(C, 1)
    expected = torch.maximum(x * ((a1 - 0.5) * 2 + 1) + b1 - 0.5, x * (a2 - 0.5) * 2 + b2 - 0.5)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


def test_dy_relu_c_checkpoint_of_microsoft() -> None:
    """The spatial branch, a 1x1 convolution and a BatchNorm, becomes one affine map."""
    conv, norm = nn.Conv2d(C, 1, 1), nn.BatchNorm2d(1)
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(2.0)
    randomised(norm)
    layers = {"fc.0": nn.Linear(C, 4), "fc.2": nn.Linear(4, 4 * C), "spa.0": conv, "spa.1": norm.eval()}
    saved = {f"{key}.{k}": v for key, layer in layers.items() for k, v in layer.state_dict().items()}
    module = AN.DyReLUC(C, hidden=4, normalizer="hard_sigmoid")
    module.load_state_dict(saved)
    flat = {k: v for k, v in saved.items() if k.startswith("fc")}
    lines = AN.DyReLUB(C, hidden=4, normalizer="hard_sigmoid")
    lines.load_state_dict(flat)
    x = 3 * sample()
    share = torch.softmax(norm(conv(x)).flatten(1), 1).reshape(2, 1, 4, 5)
    expected = lines(x) * F.hardtanh(share * 20, 0, 3) / 3
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
    assert module.tau == 1.0 and module.gain == 1.0


def test_per_channel_shapes_load_from_any_layout() -> None:
    for shape in ((C,), (1, C, 1), (1, 1, C), (1, C, 1, 1)):
        module = AN.AconC(C)
        saved = {"p1": sample(*shape), "p2": sample(*shape), "beta": sample(*shape).abs()}
        module.load_state_dict(saved)
        assert torch.equal(module.p1, saved["p1"].flatten())
        torch.testing.assert_close(module.beta, saved["beta"].flatten())


# PAU


def test_the_form_travels_with_the_coefficients() -> None:
    first, second = AN.PAU(form="B"), AN.PAU(form="A")
    x = sample()
    assert not torch.allclose(first(x), second(x), atol=1e-6)
    second.load_state_dict(first.state_dict())
    assert second.form == "B" and torch.equal(first(x), second(x))


def test_noise_of_form_d_only_in_training() -> None:
    noisy, x = AN.PAU(form="D"), sample()
    assert not torch.equal(noisy(x), noisy(x))
    noisy.eval()
    plain = AN.PAU(form="B")
    assert torch.equal(noisy(x), plain(x))
    noisy.train()
    torch.manual_seed(0)
    noise = torch.stack([noisy(x) for _ in range(200)])
    # 10 % on each of ten coefficients: the mean of 200 draws is near the noiseless value.
    assert (noise.mean(0) - plain(x)).abs().max() < 0.1


def test_poles_of_the_unsafe_form() -> None:
    module = AN.PAU(2, degrees=(1, 2), form="unsafe")
    module.load_start({"b": (0.0, -1.0, 0.0, 1.0), "tails": (2.0, -3.0, 3.0, 0.0, 0.0) * 2})
    assert [[round(x, 6) for x in row] for row in module.poles()] == [[-2.0, 2.0], []]  # 1 - t^2 at x = 2 t
    assert AN.PAU(2).poles() == [(), ()] and AN.HP1().poles() == [()]
    opau = AN.OPAU(degrees=(1, 1), basis="laguerre", safe=False)
    opau.load_start({"d": (1.0,), "tails": (1.0, -3.0, 3.0, 0.0, 0.0)})
    assert opau.poles()[0] == pytest.approx((2.0,))  # 1 + (1 - t) = 0


def test_default_rationals_are_leaky_relu() -> None:
    x = torch.linspace(-3, 3, 601).reshape(1, 1, -1)
    for module in (AN.PAU(), AN.PAU(form="B"), AN.PAU(form="C"), AN.OPAU(), AN.HP1(), AN.HP2()):
        assert (module.eval()(x) - F.leaky_relu(x, 0.01)).abs().max() < 0.15
        assert (module(torch.tensor([[[300.0]]])) - 300).abs() < 0.5  # tails


@pytest.mark.parametrize(
    "make",
    [
        lambda: AN.PAU(degrees=(5, 0)),
        lambda: AN.PAU(form="E"),
        lambda: AN.OPAU(basis="bessel"),
        lambda: AN.MetaAcon(C, space="row"),
        lambda: AN.MetaAcon(C, pool="max"),
        lambda: AN.MetaAcon(C, space="pixel", bn=True),
        lambda: AN.DyReLUB(C, k=2, init=[1.0]),
        lambda: AN.DyReLUB(C, normalizer="tanh"),
        lambda: AN.AconC(0),
        lambda: AN.AconFReLU(None),
        lambda: AN.AconFReLU(C, kernel_size=2),
        lambda: AN.AconFReLU(C)(sample(2, C, 5, 2, 2)),
        lambda: AN.LinearSchedule(0.0, 1.0, 0),
        lambda: AN.Morph(nn.ReLU(), nn.SiLU(), t=1.5),
    ],
)
def test_wrong_arguments(make) -> None:
    with pytest.raises(UsageError):
        make()


# Swish


def test_swish_constant_or_trained() -> None:
    constant, shared, own = AN.Swish(beta=1.702, trainable=False), AN.Swish(), AN.Swish(C)
    assert not list(constant.parameters()) and "log_beta" in constant.state_dict()
    assert [p.numel() for p in shared.parameters()] == [1] and [p.numel() for p in own.parameters()] == [C]
    x = sample()
    torch.testing.assert_close(constant(x), x * torch.sigmoid(1.702 * x))


@EVERY
@pytest.mark.parametrize("shape", [(C,), (C, 5), (C, 3, 4)])
def test_an_input_without_samples(name: str, shape: tuple[int, ...]) -> None:
    """Layers run on a single image too; its channels are on axis 0 then, and it is one sample."""
    one = randomised(activations.get(name).build(C, 0))
    many = activations.get(name).build(C, 1)
    many.load_state_dict(one.state_dict())
    x = sample(*shape)
    torch.testing.assert_close(one(x), many(x[None])[0])


@pytest.mark.parametrize("name", [n for n in TRAINABLE if n != "acon_frelu"])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_values_without_channels(name: str, shape: tuple[int, ...]) -> None:
    """Each value of a vector, and a lone number, is a sample of one channel."""
    module = randomised(activations.get(name).build(None, 1))
    x = sample(math.prod(shape)).reshape(shape)
    torch.testing.assert_close(module(x), module(x.reshape(-1, 1)).reshape(shape))


@pytest.mark.parametrize("rows", [(4, C), (4, C, 5)])
def test_axes_that_an_input_lacks_have_length_one_for_acon_frelu(rows: tuple[int, ...]) -> None:
    module = randomised(activations.get("acon_frelu").build(C))
    x = sample(*rows)
    image = x.reshape(rows + (1,) * (4 - len(rows)))
    torch.testing.assert_close(module(x), module(image).reshape(rows))


def test_acon_frelu_with_batch_norm() -> None:
    """TFNet: x2 = BN(dwconv(x)), beta fixed at 1."""
    module = randomised(AN.AconFReLU(C, bn=True, trainable=False))
    x = sample()
    second = module.bn(F.conv2d(x, module.weight, module.bias, padding=1, groups=C))
    torch.testing.assert_close(module(x), (x - second) * torch.sigmoid(x - second) + second)


# Morphs, schedules and the way back


@pytest.mark.parametrize("target", ["acon_c", "pau", "dy_relu_b", "sigmoid"])
@pytest.mark.parametrize("kind", PLAIN)
def test_morph_is_the_source_at_0_and_the_target_at_1(kind: str, target: str) -> None:
    source = Source(kind)
    morph = AN.Morph(SourceModule(source), activations.get(target).build(C, 1))
    x = sample()
    assert torch.equal(morph(x), evaluate(source, x))
    morph.t = 1.0
    assert torch.equal(morph(x), morph.target(x))
    morph.t = 0.25
    torch.testing.assert_close(morph(x), 0.75 * evaluate(source, x) + 0.25 * morph.target(x))


def test_morph_in_half_precision_and_saved() -> None:
    morph = AN.Morph(SourceModule(Source("gelu")), AN.AconC(C)).bfloat16()
    x = sample().bfloat16()
    assert torch.equal(morph(x), F.gelu(x))
    morph.t = 0.5
    other = AN.Morph(SourceModule(Source("gelu")), AN.AconC(C)).bfloat16()
    other.load_state_dict(morph.state_dict())
    assert other.t == 0.5 and torch.equal(other(x), morph(x))


def test_schedules_anneal_and_finalize() -> None:
    model = nn.Sequential(
        OrderedDict(
            a=AN.Morph(SourceModule(Source("gelu")), AN.AconC(C)),
            b=nn.Sequential(AN.Morph(SourceModule(Source("tanh")), AN.DyReLUC(C))),
        )
    )
    rise, cool = AN.morph_schedule(10), AN.temperature_schedule(10)
    assert [rise(s) for s in (-1, 0, 5, 10, 99)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert [cool(s) for s in (0, 10, 50)] == [10.0, 1.0, 1.0]
    assert AN.anneal(model, "t", rise, 5) == 2 and AN.anneal(model, "tau", cool, 5) == 1
    assert model.a.t == 0.5 and model.b[0].target.tau == 5.5
    with pytest.raises(UsageError, match=r"t = 0\.5"):
        AN.finalize(model)
    AN.anneal(model, "t", rise, 10)
    x = sample()
    before = model(x)
    assert AN.finalize(model) == 2 and isinstance(model.a, AN.AconC) and isinstance(model.b[0], AN.DyReLUC)
    assert torch.equal(model(x), before)


def test_temperature_is_saved() -> None:
    first, second = AN.DyReLUC(C), AN.DyReLUC(C)
    first.tau = 2.5
    second.load_state_dict(first.state_dict())
    assert second.tau == 2.5


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("acon_c", Source("silu")),
        ("acon_c", Source.of("leaky_relu", slope=0.2)),
        ("acon_c", Source.of("prelu", slope=(0.1, 0.2, 0.3, 1.4, -0.5, 0.0))),
        ("meta_acon", Source("relu")),
        ("dy_relu_b", Source("relu")),
        ("pau", Source("tanh")),
        ("pau", Source("sigmoid")),
    ],
    ids=str,
)
def test_simplify_finds_what_a_unit_started_from(name: str, source: Source) -> None:
    spec = activations.get(name)
    module = spec.build(C, 1)
    context = StartContext(beta=1e5, histogram=Histogram.uniform(-8, 8))
    module.load_start(spec.start(source, context).params)
    x = 2 * sample(4, C, 8, 8)
    found = closest_plain(module, x, 2e-3)
    assert found is not None and found.kind == source.kind
    for n, value in source.params:
        assert torch.tensor(found.get(n)).tolist() == pytest.approx(torch.tensor(value).tolist(), abs=1e-3)


def test_simplify_leaves_what_is_not_plain() -> None:
    assert closest_plain(AN.AconC(C, p1=1.1, p2=-0.4, beta=0.7), 2 * sample(), 1e-3) is None


def test_simplify_a_model() -> None:
    plain, odd = AN.AconC(4), AN.AconC(5, p1=1.3, p2=0.4, beta=2.0)
    model = nn.Sequential(nn.Linear(3, 4), plain, nn.Linear(4, 5), odd)
    x = sample(64, 3)
    before = model(x)
    assert simplify(model, lambda: model(x), 1e-3) == {"1": Source("silu")}
    assert isinstance(model[1], SourceModule) and model[3] is odd
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_bounded_delegates_its_start() -> None:
    bounded = AN.Bounded(AN.AconC(C), 0.0, 6.0)
    assert isinstance(bounded.inner, Activation)
    bounded.load_start(activations.get("acon_c").start(Source("relu"), StartContext(beta=1e5)).params)
    x = 5 * sample()
    torch.testing.assert_close(bounded(x), F.relu6(x), rtol=0, atol=3e-6)
