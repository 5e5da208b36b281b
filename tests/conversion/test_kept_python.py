"""What Python does around the operations stays, and every state of a module keeps its activation."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import actswap
from actswap.activations.base import Activation
from actswap.conversion.passes.replace import surroundings
from actswap.errors import CaptureError, UsageError, first_line

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
KEPT: list[Any] = []


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.k, self.__hidden, self.fast = 1.0, 0.5, False

    def hidden(self) -> float:
        return self.__hidden


class WithoutGradients(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.relu(self.a(x))
        return self.b(x)


class Attributes(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)) * self.k)


class Private(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)) * self.__scale())

    def __scale(self) -> float:
        return self.hidden()


class Keeping(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        KEPT.append(x)
        return self.b(x)


class Checkpointed(Base):
    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.body, x, use_reentrant=False)
        x = checkpoint(F.relu, self.b(x), use_reentrant=False)
        return checkpoint(lambda y: F.relu(self.b(y)), x, use_reentrant=False)


class InPlaceAlias(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(F.relu(h, inplace=True) + h)


class Scripting(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        if not torch.jit.is_scripting() and torch.is_grad_enabled():
            x = x + 0
        return self.b(x)


class Effects(Base):
    """The call's other parts act: they go on acting."""

    def slope(self) -> float:
        KEPT.append(1)
        return 0.1

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.leaky_relu(self.a(x), self.slope()))


KINDS = [WithoutGradients, Attributes, Private, Keeping, Checkpointed, InPlaceAlias, Scripting, Effects]


def converted(model: nn.Module) -> nn.Module:
    """Every activation replaced, by one that computes the same (morph)."""
    result = actswap.convert(model, "acon_c", X, start="morph")
    assert result.report.replaced and not result.report.left
    return result.model


def activations(model: nn.Module, x: Tensor = X) -> int:
    """How many calls of new activations one forward makes."""
    calls: list[int] = []
    hooks = [m.register_forward_hook(lambda *a: calls.append(1)) for m in model.modules() if isinstance(m, Activation)]
    model(x)
    for hook in hooks:
        hook.remove()
    return len(calls)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_gradients_and_side_effects_are_the_originals(kind: type[nn.Module]) -> None:
    KEPT.clear()
    model = kind().eval()
    new = converted(model)
    assert all(isinstance(kept, (Tensor, int)) for kept in KEPT), "a proxy in the user's list"
    for mode in (True, False):
        found = []
        for network in (model.train(mode), new.train(mode)):
            KEPT.clear()
            network.zero_grad()
            out = network(X)
            out.square().sum().backward()
            found.append((out, len(KEPT), {n: p.grad for n, p in network.named_parameters()}))
        (a, kept, of_a), (b, kept_too, of_b) = found
        torch.testing.assert_close(a, b)
        assert kept == kept_too
        for name, gradient in of_a.items():
            assert (gradient is None) == (of_b[name] is None), name
            torch.testing.assert_close(gradient, of_b[name])


def test_attributes_are_read_when_the_forward_runs() -> None:
    model = Attributes().eval()
    new = converted(model)
    model.k = new.k = 3.0
    torch.testing.assert_close(new(X), model(X))


def test_a_checkpointed_part_runs_again_in_the_backward_pass() -> None:
    new = converted(Checkpointed().eval()).train()
    runs: list[int] = []
    new.a.register_forward_hook(lambda *a: runs.append(1))
    new(X).sum().backward()
    assert len(runs) == 2


class Fusing(Base):
    """Two branches that become one layer, as re-parametrised blocks do."""

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "merged"):
            return F.relu(self.merged(x))
        return F.relu(self.a(x) + self.b(x))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return F.relu(self.merged(x))

    def fuse(self) -> None:
        self.merged = nn.Linear(4, 4)
        with torch.no_grad():
            self.merged.weight.copy_(self.a.weight + self.b.weight)
            self.merged.bias.copy_(self.a.bias + self.b.bias)


@pytest.mark.parametrize("method", [False, True], ids=["branch", "method"])
def test_a_block_fused_after_conversion_keeps_its_activation(method: bool) -> None:
    new = actswap.convert(Fusing().eval(), "acon_c", X).model
    expected = new(X)
    new.fuse()
    if method:
        new.forward = new.forward_fuse
    assert activations(new) == 1
    torch.testing.assert_close(new(X), expected)


class Modes(Base):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.b(F.relu(self.a(x)))
        return self.b(F.relu(self.a(x)) * 1.5)


def test_the_branch_for_training_trains_the_same_activation() -> None:
    new = actswap.convert(Modes().eval(), "acon_c", X).model
    assert activations(new) == activations(new.train()) == 1


class Logged(nn.Module):
    """An activation of the user's own that does more than compute."""

    def forward(self, x: Tensor) -> Tensor:
        KEPT.append(x)
        return F.relu(x)


def test_a_module_that_does_more_is_not_swapped_whole() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Logged(), nn.Linear(4, 4)).eval()
    new = converted(model)
    KEPT.clear()
    new(X)
    assert type(new[1]).__name__ == "Logged" and len(KEPT) == 1 and activations(new) == 1


# Forwards on the instance


def as_bound(model: nn.Module) -> None:
    model.forward = model.fused


def as_foreign(model: nn.Module) -> None:
    model.forward = functools.partial(outside, model)


def as_hook(model: nn.Module) -> None:
    """As accelerate does it: the old forward is kept, and a new one calls it."""
    model._old_forward = model.forward
    model.forward = functools.update_wrapper(functools.partial(hooked, model), model._old_forward)


def outside(self: nn.Module, x: Tensor) -> Tensor:
    return self.b(F.relu(self.a(x)))


def hooked(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    KEPT.append("before")
    return module._old_forward(*args, **kwargs)


class OnTheInstance(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))

    def fused(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


@pytest.mark.parametrize("change", [as_bound, as_foreign, as_hook], ids=lambda f: f.__name__)
def test_a_forward_on_the_instance_is_rewritten_where_it_stands(change: Callable[[nn.Module], None]) -> None:
    model = OnTheInstance().eval()
    change(model)
    new = converted(model)
    twin = copy.deepcopy(new)
    KEPT.clear()
    for network in (new, twin):
        assert activations(network) == 1
        torch.testing.assert_close(network(X), model(X))
    assert len(KEPT) in (0, 6), "the hook runs once per call, of the original too"
    with torch.no_grad():
        twin.b.weight.zero_()
    assert not torch.equal(twin(X), new(X)), "the copy's forward is its own"
    back = actswap.revert(new)
    assert activations(back) == 0 and torch.equal(back(X), model(X))


def test_a_plain_function_on_the_instance_is_left_with_its_reason_and_the_rest_is_not() -> None:
    model = nn.Sequential(OnTheInstance(), nn.ReLU(), nn.Linear(4, 4)).eval()
    inner = model[0]
    inner.forward = lambda x: F.relu(inner.a(x))
    result = actswap.convert(model, "acon_c", X, inplace=True)
    assert [r.site.name for r in result.report.replaced] == ["1"]
    (left,) = result.report.left
    assert "on the instance" in left.reason


def test_new_parameters_stand_where_a_model_with_offloaded_weights_computes() -> None:
    model = OnTheInstance().to("meta")
    assert surroundings(model, model) == (torch.device("meta"), torch.float32)
    model._hf_hook = types.SimpleNamespace(hooks=[types.SimpleNamespace(execution_device="cpu")])
    assert surroundings(model, model) == (torch.device("cpu"), torch.float32)


class FSDPModule:
    """Named as torch's own, whose modules it stands for."""


FSDPModule.__module__ = "torch.distributed.fsdp"


def test_a_distributed_model_is_refused_before_it_is_changed() -> None:
    kind = type("FSDPBase", (FSDPModule, OnTheInstance), {})
    model = kind().eval()
    with pytest.raises(UsageError, match="distributed training already") as caught:
        actswap.convert(model, "acon_c", X, inplace=True)
    assert "convert first" in caught.value.fix and type(model) is kind


def test_an_error_of_the_model_without_a_message_arrives_in_words() -> None:
    class Asserts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    with pytest.raises(CaptureError, match="does not run") as caught:
        actswap.scan(Asserts(), X)
    assert "AssertionError" in caught.value.why
    assert first_line(KeyError()) == "KeyError" and first_line(ValueError("a\nb")) == "ValueError: a"
