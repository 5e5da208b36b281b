"""What every module must do: state, types, training, export, gradients, layouts, and words for wrong arguments."""

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
from actswap.errors import UsageError

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


# PAU


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
