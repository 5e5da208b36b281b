"""Following a loop of one's own: ramps, divergence, the bundle, and an optimizer that trains activations."""

from __future__ import annotations

import math

import pytest
import torch
from small_net import SmallNet
from torch import nn

import actswap
from actswap.errors import DivergenceError, UsageError
from actswap.train import Follow, Ramp, activation_parameters, check_optimizer


def converted(image: torch.Tensor, target: str = "swish", start: str = "morph") -> nn.Module:
    torch.manual_seed(0)
    return actswap.convert(SmallNet().eval(), target, image, start=start).model


def test_ramps_end_and_the_bundle_is_the_trained_network(image, tmp_path):
    model = converted(image)
    follow = Follow(nn.DataParallel(model), 4, {"morph": Ramp(0.0, 1.0, until=0.5)}, out=tmp_path / "out")
    seen = []
    for _ in range(4):
        seen.append(model.act.t)
        follow.step(torch.tensor(1.0))
    assert seen == [0.0, 0.5, 1.0, 1.0] and model.act.t == 1.0
    loaded = actswap.load(follow.finish(), SmallNet())
    with torch.no_grad():
        assert torch.equal(loaded.eval()(image), model.eval()(image))


def test_a_run_that_goes_on_finds_its_ramps_where_they_were(image):
    model = converted(image)
    follow = Follow(model, 4, {"morph": Ramp(0.0, 1.0)})
    follow.resume(3)
    assert model.act.t == 0.75 and follow.done == 3


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e6])
def test_a_loss_out_of_bounds_stops_the_run(loss, image):
    follow = Follow(converted(image, "acon_c", "auto"), 100)
    follow.step(1.0)
    with pytest.raises(DivergenceError, match=r"diverged at step 2(.|\n)*activation_lr"):
        follow.step(loss)


def test_a_parameter_that_explodes_is_named(image):
    model = converted(image, "acon_c", "auto")
    follow = Follow(model, 100, check_every=2)
    follow.step()
    with torch.no_grad():
        model.act.p1.fill_(math.nan)
    with pytest.raises(DivergenceError, match=r"act \(AconC\)(.|\n)*p1 is not finite"):
        follow.step()


def test_morphs_that_nothing_moves_are_told(image):
    with pytest.warns(UserWarning, match=r"4 activations are morphs at t = 0(.|\n)*Ramp\(0.0, 1.0\)"):
        Follow(converted(image), 4)


def test_what_was_not_converted_is_refused():
    with pytest.raises(UsageError, match="was not converted"):
        Follow(SmallNet(), 1)


def test_the_optimizer_is_looked_at(image):
    model = converted(image, "acon_c", "auto")
    good = torch.optim.AdamW(actswap.param_groups(model, weight_decay=0.1))
    check_optimizer(model, good.param_groups)  # any warning is an error in these tests
    with pytest.warns(UserWarning, match=r"weight decay pulls \d+ activation parameters"):
        check_optimizer(model, torch.optim.AdamW(model.parameters(), weight_decay=0.1).param_groups)
    with pytest.raises(UsageError, match=r"none of the \d+ activation parameters(.|\n)*requires_grad_\(True\)"):
        check_optimizer(model, torch.optim.SGD(model.head.parameters(), lr=0.1).param_groups)
    some = [next(iter(activation_parameters(model).values())), *model.head.parameters()]
    with pytest.warns(UserWarning, match=r"trains 1 of 12 activation parameters"):
        check_optimizer(model, torch.optim.SGD(some, lr=0.1).param_groups)
    check_optimizer(SmallNet(), [])
