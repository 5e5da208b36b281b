"""One pass in train mode: the same random numbers, no trace on the model, and in words why a model does not run."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from actswap.checks.gradients import (
    Pass,
    Way,
    first_pass,
    gradient_error,
    lost_and_gained,
    one_pass,
    other_calls,
    output_error,
    types_under_autocast,
    vouched_for,
)

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), *layers, nn.Linear(4, 2))


def passed(model: nn.Module, x: Any = X) -> Pass:
    found = first_pass(model, (x,), {})
    assert isinstance(found, Pass), found
    return found


def test_two_passes_are_the_same_although_the_network_draws() -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * random.random() + float(np.random.rand()) + torch.rand(1)

    model = net(nn.Dropout(), Drawing(), nn.ReLU())
    a, b = passed(model), passed(model)
    assert gradient_error(a, b) == (0.0, "") and output_error(a, b) == 0.0
    assert {"0.bias", "4.bias", "input 0"} == set(a.gradients)
    assert a.reached == dict.fromkeys(("0.weight", "0.bias", "4.weight", "4.bias", "input 0"), True)


def test_nothing_is_left_on_the_model_or_the_process() -> None:
    model = net(nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(inplace=True)).eval()
    model[0].weight.grad = kept = torch.ones(4, 4)
    before, x = copy.deepcopy(model.state_dict()), X.clone()
    torch.manual_seed(7)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    passed(model)
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model[0].weight.grad is kept and torch.equal(kept, torch.ones(4, 4)) and model[4].bias.grad is None
    assert not model.training and torch.equal(x, X) and X.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Frozen(nn.Module):
    """Its body is trained or not."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.trained = nn.Linear(4, 4), nn.Linear(4, 2), trained

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.trained):
            h = self.body(x).relu()
        return self.head(h)


def test_lost_and_gained_gradients_are_named() -> None:
    trained, frozen = passed(Frozen(True)), passed(Frozen(False))
    of_body = ["body.weight", "body.bias", "input 0"]
    assert lost_and_gained(trained, frozen) == (of_body, [])
    assert lost_and_gained(frozen, trained) == ([], of_body)
    still = Frozen(True)
    still.body.requires_grad_(False)
    assert lost_and_gained(passed(still), trained)[1] == ["body.bias", "body.weight"]


def test_a_gradient_that_differs_is_measured() -> None:
    a, b = passed(net(nn.ReLU())), passed(net(nn.LeakyReLU(0.1)))
    error, where = gradient_error(a, b)
    assert error > 0.01 and where in a.gradients


def test_a_bias_before_batch_normalisation_is_mostly_rounding_and_does_not_decide() -> None:
    a = passed(net(nn.BatchNorm1d(4), nn.ReLU()))
    noisy = dict(a.gradients)
    noisy["0.bias"] = noisy["0.bias"] + 1e-9  # its own gradient is zero to rounding
    assert gradient_error(a, replace(a, gradients=noisy))[0] < 1e-3


class Own(nn.Module):
    """A weight of its own, beside a layer and its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.layer = nn.Parameter(torch.eye(4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.relu(x @ self.weight))


def test_the_weights_that_nothing_else_vouches_for_are_computed() -> None:
    """Half of a backward pass is the gradients of weights; those beside a bias or norm are only asked for."""
    assert vouched_for(Own()) == {"layer.weight"}
    convs = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, bias=False))
    assert vouched_for(nn.Sequential(convs)) == {"0.2.weight"}, "nothing stands before the first weight"
    bare = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    assert vouched_for(bare) == frozenset()
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert vouched_for(nn.Sequential(computed)) == frozenset()
    frozen = net()
    frozen[0].bias.requires_grad_(False)
    frozen[1].bias.requires_grad_(False)
    assert vouched_for(frozen) == frozenset()


def test_whether_a_weight_gets_a_gradient_is_read_from_the_graph() -> None:
    """What the graph says is what a backward pass does."""
    model = nn.Sequential(Frozen(False), nn.ReLU(), nn.Linear(2, 2))
    found = passed(model)
    model.train()(X).sum().backward()
    assert vouched_for(model) == {"0.body.weight", "0.head.weight", "2.weight"}
    assert [n for n, p in model.named_parameters() if p.grad is None] == ["0.body.weight", "0.body.bias"]
    assert [n for n, reached in found.reached.items() if not reached] == ["0.body.weight", "0.body.bias", "input 0"]


def test_one_sample_is_doubled_for_batch_normalisation() -> None:
    found = passed(net(nn.BatchNorm1d(4), nn.ReLU()), X[:1])
    assert found.way == Way(inputs=False, twice=True) and "more than 1 value" in found.why
    assert found.outputs[0].shape == (2, 2)


def test_a_model_that_fails_in_train_mode_is_run_in_eval_mode_and_says_why() -> None:
    class NeedsTargets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor, targets: Any = None) -> Tensor:
            if self.training and targets is None:
                raise ValueError
            return self.a(x).relu()

    found = passed(NeedsTargets())
    assert not found.way.training and found.why.endswith("ValueError")
    assert str(found.way) == "in eval mode"


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_parts_are_called_again(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.mid = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.mid, F.relu(self.a(x)), use_reentrant=reentrant)

    class Plain(Checkpointed):
        def forward(self, x: Tensor) -> Tensor:
            return self.mid(F.relu(self.a(x)))

    a, b = passed(Checkpointed()), passed(Plain())
    assert a.way.accumulate == reentrant
    assert other_calls(a, b, lambda name: False) == ("mid",)
    assert other_calls(a, b, lambda name: name == "mid") == ()


@dataclass
class Output:
    logits: Tensor
    ids: Tensor


def test_integers_in_and_output_objects_out() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 9)

        def forward(self, ids: Tensor) -> Output:
            logits = self.head(self.embed(ids).relu())
            return Output(logits, logits.argmax(-1))

    found = passed(Language(), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    assert set(found.gradients) == {"embed.weight", "head.bias"} and len(found.outputs) == 2


@pytest.mark.parametrize(("forward", "why"), [
    (lambda self, x: torch.no_grad()(self.a)(x), "no output has a gradient"),
    (lambda self, x: self.a(x) / 0, "not finite"),
    (lambda self, x: self.a(x).argmax(1), "no output has a gradient"),
])  # fmt: skip
def test_a_model_without_gradients_says_so(forward: Any, why: str) -> None:
    model = type("Made", (nn.Module,), {"forward": forward})()
    model.a = nn.Linear(4, 4)
    found = first_pass(model, (X,), {})
    assert isinstance(found, str) and why in found


def test_hooks_that_step_on_accumulated_gradients_never_run() -> None:
    model = net(nn.ReLU())
    model[0].weight.register_post_accumulate_grad_hook(lambda p: p.data.zero_())
    before = model[0].weight.detach().clone()
    passed(model)
    assert isinstance(one_pass(model, (X,), {}, Way(accumulate=True)), str)
    assert torch.equal(model[0].weight, before)


def test_dtypes_under_autocast() -> None:
    class Careful(nn.Module):
        def __init__(self, careful: bool) -> None:
            super().__init__()
            self.a, self.careful = nn.Linear(4, 4), careful

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=not self.careful):
                return self.a(x).relu()

    assert types_under_autocast(Careful(True), (X,), {}) == {"a": ("float32",)}
    assert types_under_autocast(Careful(False), (X,), {}) == {"a": ("bfloat16",)}
    assert isinstance(types_under_autocast(nn.Linear(3, 3), (X,), {}), str)
