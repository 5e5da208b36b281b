"""Conversion of the model itself: nothing is lost, and a failure leaves it as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conversion_nets import ROWS, X, net, same_state, shape_of, state_of
from torch import Tensor, nn

import actswap
import actswap.errors


def test_in_place() -> None:
    model = net()
    expected, weights = model(X), {id(p) for p in model.parameters()}
    result = actswap.convert(model, "acon_c", X, inplace=True)
    assert result.model is model
    kept = {id(p) for p in model.parameters()} & weights
    assert len(kept) == len(weights) - 1, "the weights are the same tensors, but for PReLU's"
    assert torch.equal(actswap.revert(model, inplace=True)(X), expected)
    assert shape_of(model) == shape_of(net())


@pytest.mark.parametrize(
    "arguments",
    [
        {"start": "fit", "target": "pau", "tolerance": 1e-9},
        {"start": "exact"},
        {"target": "meta_acon", "options": {"space": "time"}},
        {"calibration": []},
        {"only": "nothing"},
        {"tolerance": -1.0},
    ],
)
def test_a_failure_in_place_leaves_the_model_as_it_was(arguments: dict[str, Any]) -> None:
    model = net()
    before, state = shape_of(model), state_of(model)
    with pytest.raises(actswap.errors.ActswapError):
        actswap.convert(model, **{"target": "acon_c", "example_inputs": X, "inplace": True, **arguments})
    assert shape_of(model) == before
    assert same_state(model, state)


def test_an_interrupt_in_place_leaves_the_model_as_it_was() -> None:
    model = net()
    before, state = shape_of(model), state_of(model)

    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("sharpness"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        actswap.convert(model, "acon_c", X, inplace=True, progress=stop)
    assert shape_of(model) == before
    assert same_state(model, state)


def test_a_model_that_is_itself_an_activation() -> None:
    class Swish(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(x)

    for model in (nn.ReLU(), Swish()):
        result = actswap.convert(model, "acon_c", ROWS)
        assert result.report.ok
        assert type(actswap.revert(result.model)) is type(model)


def test_hooks_of_the_user_stay() -> None:
    model = net()
    seen: list[str] = []
    model.blocks[0].register_forward_hook(lambda m, i, o: seen.append("block"))
    model.head.register_forward_pre_hook(lambda m, i: seen.append("head"))
    new = actswap.convert(model, "acon_c", X).model
    seen.clear()
    new(X)
    assert seen == ["block", "head"]


def test_random_state_is_not_consumed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    actswap.scan(net_without_seed(), X)
    assert torch.equal(torch.rand(3), expected)


_KEPT = net()


def net_without_seed() -> nn.Module:
    return _KEPT


def test_weights_that_are_tied_stay_tied() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6), nn.SiLU()).eval()
    model[2].weight = model[0].weight
    new = actswap.convert(model, "acon_c", ROWS).model
    assert new[2].weight is new[0].weight
    back = actswap.revert(new)
    assert back[2].weight is back[0].weight


class Caching(nn.Module):
    """Keeps a computed tensor in a dict, as LevIT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act, self.cache = nn.Linear(4, 4), nn.ReLU(), {}

    def forward(self, x: Tensor) -> Tensor:
        self.cache["weight"] = self.linear.weight * 2
        return self.act(self.linear(x))


def test_a_model_that_keeps_computed_tensors_is_copied() -> None:
    model, x = Caching().eval(), torch.randn(2, 4)
    model(x)
    assert model.cache["weight"].grad_fn is not None
    result = actswap.convert(model, "dy_relu_b", x)
    result.model(x)
    assert torch.equal(actswap.revert(result.model)(x), model(x))


def test_a_kept_original_follows_the_network() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.PReLU(4)).eval(), torch.randn(2, 4)
    back = actswap.revert(actswap.convert(model, "acon_c", x).model.double())
    assert {p.dtype for p in back.parameters()} == {torch.float64}
    torch.testing.assert_close(back(x.double()), model.double()(x.double()), rtol=0, atol=0)


def test_inference_mode_outside_leaves_trainable_parameters() -> None:
    with torch.inference_mode():
        model = actswap.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "acon_c", torch.randn(2, 4)).model
    model(torch.randn(2, 4)).sum().backward()
    assert model.get_parameter("1.p1").grad is not None
