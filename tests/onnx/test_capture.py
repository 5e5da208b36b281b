"""Example inputs at other batch sizes, and the axes that an export leaves open."""

import logging
import warnings

import pytest
import torch
from torch import nn

from actswap.errors import ExportError
from actswap.onnx.capture import batch_size, capture, dynamic_axes, quiet_exporter, resize, tensors, with_batch

X, MASK, NUMBER = torch.randn(3, 4, 5), torch.ones(3, dtype=torch.int64), torch.tensor(2.0)
INPUTS = ((X, [MASK, 7]), {"scale": NUMBER})


def test_the_batch_is_the_first_axis_of_the_first_tensor_that_has_one():
    assert [t.shape for t in tensors(INPUTS)] == [X.shape, MASK.shape, NUMBER.shape]
    assert batch_size(INPUTS) == 3 and batch_size(((NUMBER, 1), {})) is None


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_tensors_of_the_batch_are_repeated_or_cut_and_others_stay(batch):
    (x, (mask, seven)), kwargs = with_batch(INPUTS, batch)
    assert x.shape == (batch, 4, 5) and mask.shape == (batch,) and seven == 7 and kwargs["scale"] is NUMBER
    assert all(torch.equal(x[k], X[k % 3]) for k in range(batch))


def test_resized_numbers_are_scaled_and_integers_are_not():
    assert torch.equal(resize(torch.tensor([1.0, 2.0]), (3,), 0.5), torch.tensor([0.5, 1.0, 0.5]))
    assert torch.equal(resize(torch.tensor([1, 2]), (3,), 0.5), torch.tensor([1, 2, 1]))


def test_channels_of_pictures_are_never_open():
    assert set(dynamic_axes(torch.zeros(2, 3, 8, 8), 2, True, True)) == {0, 2, 3}
    assert set(dynamic_axes(torch.zeros(2, 3, 8, 8), 2, True, False)) == {0}
    assert set(dynamic_axes(torch.zeros(2, 10), 2, True, True)) == {0}, "features of a vector are fixed"
    assert set(dynamic_axes(torch.zeros(2, 10, dtype=torch.int64), 2, True, True)) == {0, 1}, (
        "a length of tokens is open"
    )
    assert dynamic_axes(3, 2, True, True) is None


def test_a_model_that_cannot_be_captured_says_how_to_go_on():
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ExportError, match="Branches with dynamic batch") as caught:
        capture(Branches(), ((torch.ones(2, 3),), {}), True, False)
    assert "dynamic_batch=False" in caught.value.fix


def test_quiet_drops_warnings_and_log_lines_of_the_exporter_in_the_block_only():
    logger = logging.getLogger("torch.onnx")
    shown: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with quiet_exporter():
            warnings.warn("the exporter's own business", stacklevel=1)
            logger.critical("dropped")
        logger.critical("kept")
    finally:
        logger.removeHandler(handler)
    assert shown == ["kept"]
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", UserWarning, stacklevel=1)
