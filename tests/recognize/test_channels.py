"""The channel axis is read off the layers before and after a call, through every change of shape between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actswap.capture.observe import observe
from actswap.recognize.channels import ChannelFinder, common_width


class Around(nn.Module):
    """A convolution, a change of shape, a ReLU, another change, a layer."""

    def __init__(self, between: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.between, self.after = nn.Conv2d(3, 6, 1), between, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.relu(self.between(self.conv(x))))


def axis(model: nn.Module, x: Tensor) -> int | None:
    tape = observe(model, (x,))
    (relu,) = [op for op in tape.ops if op.name == "relu"]
    return ChannelFinder(tape).axis(next(relu.refs()))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda y: y, 1),
        (lambda y: y.permute(0, 2, 3, 1), 3),
        (lambda y: y.transpose(1, 3), 3),
        (lambda y: y.movedim(1, 0), 0),
        (lambda y: y.flatten(2), 1),
        (lambda y: y.flatten(2).transpose(1, 2), 2),
        (lambda y: y.reshape(2, 6, 2, 10), 1),
        (lambda y: y[:, :, 0], 1),
        (lambda y: y[:, None], 2),
        (lambda y: y[0], 0),
        (lambda y: y[..., :2], 1),
        (lambda y: y.unsqueeze(0), 2),
        (lambda y: torch.stack([y, y]), 2),
        (lambda y: torch.cat([y, y], 1), 1),
        (lambda y: y.mean((2, 3)), 1),
        (lambda y: y.mean((2, 3), keepdim=True), 1),
        (lambda y: y.chunk(2, 1)[0], 1),
        (lambda y: y.unbind(0)[0], 0),
        (lambda y: F.avg_pool2d(y + 1, 2), 1),
        (lambda y: y.flatten(1), 1),  # what a linear layer behind it would see as its features
        (lambda y: y[:, 0], None),  # the channels are gone
        (lambda y: y.mean(1), None),
    ],
)
def test_the_axis_is_followed_through_changes_of_shape(
    change: Callable[[Tensor], Tensor], expected: int | None
) -> None:
    assert axis(Around(change, lambda y: y), torch.randn(2, 3, 4, 5)) == expected


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU()), (2, 5, 4), 2),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 6)), (2, 5, 4), 2),
        (nn.Sequential(nn.ReLU(), nn.Conv1d(4, 6, 1)), (2, 4, 5), 1),
        (nn.Sequential(nn.ReLU(), nn.Flatten(2), nn.BatchNorm1d(4)), (2, 4, 3, 5), 1),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()), (2, 4, 3, 5), 1),
        (nn.Sequential(nn.LayerNorm(5), nn.ReLU()), (2, 4, 5), 2),
        (nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU()), (3, 4, 5), 0),  # one image without a batch
        (nn.ReLU(), (2, 4, 5), None),
    ],
    ids=str,
)
def test_the_layer_before_or_behind_tells_the_axis(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert axis(model.eval(), torch.randn(shape)) == expected


def test_the_witness_is_the_layer_that_told() -> None:
    for model, name, made in (
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU()), "linear", True),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 6)), "linear", False),
    ):
        tape = observe(model, (torch.randn(2, 4),))
        (relu,) = [op for op in tape.ops if op.name == "relu"]
        witness = ChannelFinder(tape).witness(next(relu.refs()))
        assert witness is not None and (witness[0].name, witness[1]) == (name, made)


def test_calls_that_disagree_share_one_set() -> None:
    assert common_width([(2, 6, 4, 4), (2, 6, 8, 8)], [1, 1]) == (6, 1)
    assert common_width([(2, 6, 4, 4), (2, 9, 4, 4)], [1, 1]) == (None, 1)
    assert common_width([(2, 5, 6), (7, 5, 6)], [2, 2]) == (6, -1)
    assert common_width([(2, 5, 6), (7, 6)], [2, None]) == (None, 1)
    assert common_width([], []) == (None, 1)
