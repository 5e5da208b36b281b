"""Tiles: a tensor as a matrix that every kernel walks over, and sums of its programs by channel."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from actswap.ops.triton.tiles import flat, like, per_parameter, refusal, tiles

CASES = [
    ((2, 3, 5, 7), 1, False, True),
    ((2, 3, 5, 7), 1, True, False),
    ((2, 5, 6), -1, False, False),
    ((2, 3, 4, 5), 2, False, True),
    ((7, 300), 1, False, False),
    ((2, 3, 4, 5, 6), 1, True, False),
]


@pytest.mark.parametrize(("shape", "dim", "last", "planar"), CASES)
def test_a_matrix_holds_every_element_once_with_its_channel(
    shape: tuple[int, ...], dim: int, last: bool, planar: bool
) -> None:
    """Row r, column c of the matrix is element r * columns + c in memory; its channel follows from r or from c."""
    channels = torch.arange(shape[dim]).reshape([-1 if a == dim % len(shape) else 1 for a in range(len(shape))])
    x = channels.expand(shape).contiguous()
    if last:
        x = x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    dense, cut = tiles(x, dim)
    assert cut.planar is planar and cut.rows * cut.columns == x.numel() and cut.channels == shape[dim]
    matrix = dense.as_strided((cut.rows, cut.columns), (cut.columns, 1))
    rows, columns = torch.arange(cut.rows)[:, None], torch.arange(cut.columns)[None]
    assert torch.equal(matrix, ((rows if planar else columns) % cut.channels).expand_as(matrix))
    assert cut.grid[0] * cut.row_block >= cut.rows and cut.grid[1] * cut.column_block >= cut.columns


@pytest.mark.parametrize(("shape", "dim", "last", "planar"), CASES)
def test_sums_of_programs_add_up_by_channel(shape: tuple[int, ...], dim: int, last: bool, planar: bool) -> None:
    _, cut = tiles(torch.zeros(shape), dim)
    partial = cut.partials(2, torch.device("cpu")).fill_(1.0)
    total = cut.total(partial)
    assert total.shape == (2, shape[dim]) and total.dtype == torch.float64
    assert total.sum() == partial.numel() and (total == total[0, 0]).all()


def test_parameters_that_are_shared_have_no_step_and_one_gradient() -> None:
    own, shared = torch.zeros(3, 6), torch.zeros(6, dtype=torch.bfloat16)
    assert flat(own, 6)[1] == 6 and flat(shared, 6)[1] == 0 and flat(shared, 6)[0].dtype == torch.float32
    total = torch.arange(18.0).reshape(3, 6).double()
    assert torch.equal(per_parameter(total, own), total.float())
    assert torch.equal(per_parameter(total, shared), total.sum(0).bfloat16())


def test_gradients_come_in_the_layout_of_x() -> None:
    x = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    g = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    found = like(x, g)
    assert found.stride() == x.stride() and found.dtype == x.dtype and torch.equal(found, g.float())
    assert like(g, g) is g


def test_what_no_kernel_takes_has_its_reason() -> None:
    assert "float64" in refusal([torch.zeros(3, dtype=torch.float64)])
    assert "empty" in refusal([torch.zeros(0, 3)]) and refusal([torch.zeros(2, 3)]) == ""
