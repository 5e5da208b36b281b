"""The proof sees what outputs in eval mode do not show: frozen weights, lost gradients, other calls and types."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from actswap.checks.check import Check
from actswap.checks.gradients import one_pass
from actswap.checks.proof import (
    AUTOCAST,
    CALLS,
    GRADIENTS,
    NOISE_FACTOR,
    PERTURBED,
    Seen,
    Subject,
    absorbed,
    compare_functions,
    compare_start,
    forgive,
    look,
    names_of,
    own_noise,
    train_once,
)
from actswap.checks.signal import signals_of

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)))


def subject(model: nn.Module, traced: tuple[str, ...] = ()) -> Subject:
    with torch.no_grad():
        outputs = [[model(X)], [model(-X)]]
    return Subject((X,), {}, signals_of(outputs), names_of(model), frozenset(), traced)


def seen(model: nn.Module, on: Subject) -> Seen:
    return look(model, on, train_once(model, on.args, on.kwargs))


def checks(other: nn.Module, traced: tuple[str, ...] = ()) -> dict[str, Check]:
    model = Net()
    on = subject(model, traced)
    return {c.name: c for c in compare_functions(seen(model, on), other, on, lambda name: False)}


def test_a_copy_passes_every_check() -> None:
    found = checks(Net(), traced=("",))
    assert set(found) == {PERTURBED, GRADIENTS, CALLS, AUTOCAST} and all(c.passed for c in found.values())


class Frozen(Net):
    """A weight became a constant, as a trace makes it: the outputs agree until the weight moves."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = [self.first.weight.detach().clone()]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(nn.functional.linear(x, self.kept[0], self.first.bias)))


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)).detach())


class Skipping(Net):
    """Computes the same without calling its child."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


class Scaled(Net):
    """The same forward pass; the gradient is halved."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        return self.last((y + y.detach()) / 2)


class Widening(Net):
    """Returns float32 under autocast, where the original returns bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.last(self.act(self.first(x.float())))


@pytest.mark.parametrize(
    ("other", "name", "words"),
    [
        (Frozen, PERTURBED, "a weight became a constant"),
        (Frozen, GRADIENTS, "first.weight lost a gradient"),
        (Detached, GRADIENTS, "first.weight, first.bias, input 0 lost a gradient"),
        (Skipping, CALLS, "act: called 1 times"),
        (Scaled, GRADIENTS, "differ by"),
        (Widening, AUTOCAST, "returns another dtype"),
    ],
)
def test_what_outputs_do_not_show_is_found(other: Callable[[], nn.Module], name: str, words: str) -> None:
    found = checks(other(), traced=("",) if name == AUTOCAST else ())
    assert found[name].passed is False and words in found[name].said, found[name]


def test_starts_with_other_gradients_are_told_and_exact_ones_are_held_to_them() -> None:
    model, other = Net(), Scaled()
    on = subject(model)
    before = seen(model, on)
    assert not isinstance(before.trained, str)
    after = one_pass(other, on.args, on.kwargs, before.trained.way)
    assert compare_start(before, after, on, exact=True).passed is False
    told = compare_start(before, after, on, exact=False)
    assert told.passed is True and "are all there; they differ by" in told.said and told.error is not None
    assert compare_start(before, "it raised", on, exact=True).passed is False


def test_a_difference_within_the_networks_own_noise_is_forgiven() -> None:
    failed = Check(GRADIENTS, False, "differ", error=1e-3, limit=1e-4)
    (passed,) = forgive([failed], {GRADIENTS: 1e-3 / NOISE_FACTOR})
    assert passed.passed is True and "differs from itself" in passed.said
    assert forgive([failed], {GRADIENTS: 1e-3 / NOISE_FACTOR / 2})[0].passed is False
    lost = Check(GRADIENTS, False, "lost", error=1e-3, names=("first.weight",))
    assert forgive([lost], {GRADIENTS: 1.0})[0].passed is False, "a lost gradient is no noise"
    # A network that differs from itself by more than a twentieth of its signal proves nothing.
    assert forgive([Check(GRADIENTS, False, "differ", error=0.1)], {GRADIENTS: 0.1})[0].passed is None


def test_the_noise_of_a_calm_network_is_a_few_roundings() -> None:
    model = Net()
    on = subject(model)
    noise = own_noise(model, seen(model, on), on)
    eps = torch.finfo(torch.float32).eps
    assert set(noise) == {PERTURBED, GRADIENTS} and all(0 < n < 100 * eps for n in noise.values())


def test_tensors_that_become_part_of_targets_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(4))
    assert absorbed(model, [("", "1", ())]) == {"1.weight"}
    slopes = tuple(model[1].weight.tolist())
    assert absorbed(model, [("", "", (slopes,))]) == {"1.weight"} and absorbed(model, []) == frozenset()


def test_what_cannot_be_run_is_said_and_fails_nothing() -> None:
    class Untrainable(Net):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise ValueError("only for inference")
            return super().forward(x)

    model = Untrainable()
    on = subject(model)
    found = {c.name: c for c in compare_functions(seen(model, on), copy.deepcopy(model), on, lambda name: False)}
    assert found[GRADIENTS].passed is None and "only for inference" in found[GRADIENTS].said
    meta = Net().to("meta")
    assert train_once(meta, (X.to("meta"),), {}) == "on the meta device there are no values"
