"""The modules: checkpoints, state, devices and types, training, morphs, schedules, simplification."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from activation_modules import C, built, randomised, sample
from torch import nn

from actswap import activations
from actswap import nn as AN
from actswap.activations import ordinary
from actswap.activations.plain import PLAIN, evaluate
from actswap.errors import UsageError
from actswap.sites import Source

TRAINABLE = [spec.name for spec in activations.TRAINABLE]
EVERY = pytest.mark.parametrize("name", TRAINABLE)


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
    variants = [{}, *({k: v} for k, v in (("tails", "trained"), ("beta_as", "raw")) if k in spec.options)]
    named = {n for options in variants for n, _ in spec.build(C, 1, **options).named_parameters()}
    assert set(spec.no_decay) <= named


@EVERY
def test_options_are_those_of_build(name: str) -> None:
    spec = activations.get(name)
    module = spec.build(C, 1, **spec.options)
    assert set(module.state_dict()) == set(spec.build(C, 1).state_dict())
    assert spec.flops is not None and spec.flops(module, (2, C, 4, 5)) >= 2 * C * 20


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_targets_build(kind: str) -> None:
    if kind in ordinary.SPECS:
        spec = activations.get(kind)
        x = sample().abs() + 0.1
        assert torch.equal(spec.build(C, 1, **spec.options)(x), evaluate(Source(kind), x))


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
