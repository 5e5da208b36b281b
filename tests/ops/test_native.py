"""Calls whose tensors do not fit together: the kernels refuse them, and no memory is touched beside the tensors."""

import pytest
import torch
from activation_modules import C, built, sample
from operator_cases import operator, parameters

from actswap import nn as AN
from actswap import ops
from actswap.activations import TRAINABLE
from actswap.errors import UsageError
from actswap.ops import core, native
from actswap.ops.abi import Call

pytestmark = pytest.mark.skipif(not core.status().available, reason=core.status().note)
# The argument to replace, and what by: shapes that read or wrote beside the tensors before they were checked.
HOSTILE = [
    ("acon_c", 3, (2,)),
    ("acon_c", 1, (4096,)),
    ("meta_acon", 4, (4, 7)),
    ("meta_acon", 5, (3,)),
    ("meta_acon", 6, (6, 1)),
    ("meta_acon", 7, (1,)),
    ("dy_relu", 1, (100_000, 6)),
    ("dy_relu", 2, (1,)),
    ("dy_relu", 3, (24, 1)),
    ("dy_relu", 4, (5,)),
    ("dy_relu", 5, (1,)),
    ("dy_relu", 6, (3,)),
    ("dy_relu_c", 8, (9,)),
    ("pau_a_channel", 1, (5, 6)),
    ("pau_a_channel", 3, (6, 4)),
    ("pau_a_channel", 1, ()),
    ("opau_he", 2, (6, 0)),
]


@pytest.mark.parametrize(("kind", "position", "shape"), HOSTILE)
def test_a_parameter_of_another_size_is_refused_in_words(kind, position, shape):
    name, given = parameters(kind, 6)
    args = [torch.randn(2, 6, 5), *given, 1]
    args[position] = torch.randn(shape)
    with ops.backend("native"), pytest.raises(UsageError, match=name):
        operator(name)(*args)


@pytest.mark.parametrize("kind", ["meta_acon", "dy_relu", "dy_relu_c"])
@pytest.mark.parametrize("backend", ["auto", "native"])
def test_a_wrong_aux_of_a_backward_is_computed_again(kind, backend):
    name, given = parameters(kind, 6)
    args, needs = [torch.randn(2, 6, 5), *given, 1], [True] * (1 + sum(isinstance(a, torch.Tensor) for a in given))
    backward = getattr(torch.ops.actswap, f"{name}_backward")
    grad = torch.randn(2, 6, 5)
    with ops.backend(backend):
        right = backward(grad, *args, None, needs)
        for aux in (torch.zeros(1), torch.zeros(3, 4), torch.zeros(10**6), torch.zeros(12, dtype=torch.float64)):
            for a, b in zip(backward(grad, *args, aux, needs), right, strict=True):
                assert torch.equal(a, b)


def test_a_gradient_or_needs_of_another_size_are_refused():
    x, one = torch.randn(2, 6), torch.ones(1)
    for grad, needs in ((torch.randn(2, 5), [True, True]), (torch.randn(2, 6), [True])):
        with pytest.raises(UsageError, match="swish_backward"):
            torch.ops.actswap.swish_backward(grad, x, one, 1, None, needs)


def test_the_core_itself_refuses_what_no_host_should_send():
    x = torch.randn(4, 6)
    call = Call(abi=5, batch=1, groups=1, channels=6, inner=4, x_size=24, y_size=24)
    call.x_stride[:] = call.y_stride[:] = (24, 0, 1, 6)
    call.x = call.y = x.data_ptr()
    check = core._library.actswap_check
    assert check(call) == b""
    for field, value in {"inner": 5, "channels": 2**62, "batch": 0, "flags": 1 << 20, "op": 9, "x_size": 23}.items():
        changed = Call.from_buffer_copy(call)
        setattr(changed, field, value)
        assert check(changed), field


def kernels_used(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module) -> list[tuple[str, str]]:
    """The operators, and their directions, whose native kernels a training step of the module runs."""
    used: list[tuple[str, str]] = []
    names = {id(kernel.forward.__self__): name for name, kernel in native.KERNELS.items()}
    run = core.Calls.run

    def spy(self, plan, key, args, y, grad, *rest):
        used.append((names[id(self)], "forward" if grad is None else "backward"))
        return run(self, plan, key, args, y, grad, *rest)

    with monkeypatch.context() as patched, ops.backend("native"):  # a call that the kernel refuses raises
        patched.setattr(core.Calls, "run", spy)
        module(sample().requires_grad_()).square().sum().backward()
    return used


# ACON-FReLU is the maximum of convolutions: it has no operator of its own.
@pytest.mark.parametrize("name", [spec.name for spec in TRAINABLE if spec.name != "acon_frelu"])
def test_every_trainable_unit_reaches_its_kernel(name, monkeypatch):
    used = kernels_used(monkeypatch, built(name))
    assert len({operator for operator, _ in used}) == 1 and [way for _, way in used] == ["forward", "backward"]


def test_dy_relu_a_reaches_its_kernel_with_centres_stored_per_channel(monkeypatch):
    """Earlier versions stored equal centres as (2K, C), which the kernel refuses: such state dicts are narrowed."""
    module = built("dy_relu_a")
    assert kernels_used(monkeypatch, module) == [("dy_relu", "forward"), ("dy_relu", "backward")]
    old = {**module.state_dict(), "init": module.init.repeat(1, C)}
    again = AN.DyReLUA(C)
    again.load_state_dict(old)
    assert kernels_used(monkeypatch, again) == [("dy_relu", "forward"), ("dy_relu", "backward")]
