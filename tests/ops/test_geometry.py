"""A geometry names the same element by the same indices in every tensor of a call, in any memory order.

The first test is exact: it compares addresses. The second runs every operator on pairs of memory orders of x and the
gradient, against the formula in float64; benchmarks/layouts.py does so with all pairs and more shapes.
"""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import sweep
from memory_orders import memory_orders
from operator_cases import CASES

from actswap.ops.geometry import Geometry, agreeing


@st.composite
def _strided(draw, shape):
    """Draw strides of a tensor: dense in some order of the axes, half of them also cut, stepped over or expanded."""
    plain = draw(st.booleans())
    strides, step = [0] * len(shape), 1
    for axis in draw(st.permutations(range(len(shape)))):
        step *= 1 if plain else draw(st.sampled_from([1, 1, 1, 2]))
        strides[axis] = step
        step *= shape[axis] + (0 if plain else draw(st.sampled_from([0, 0, 0, 1])))
    for axis in range(len(shape)):
        if shape[axis] == 1:
            strides[axis] = draw(st.sampled_from([strides[axis], 1, 977]))  # the stride of one element says nothing
        elif not plain and draw(st.integers(0, 15)) == 0:
            strides[axis] = 0
    return tuple(strides)


@st.composite
def _calls(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    count = draw(st.integers(2, 3))
    return shape, [draw(_strided(shape)) for _ in range(count)], draw(st.integers(0, len(shape) - 1))


def _addresses(geometry: Geometry):
    """Yield (indices, address) of every element of a geometry."""
    for at in product(*map(range, geometry.extents)):
        yield at, sum(i * s for i, s in zip(at, geometry.strides, strict=True))


@settings(derandomize=True, deadline=None, max_examples=1000)
@given(_calls(), st.booleans(), st.booleans())
def test_geometries_pair_the_same_elements(call, merge, gated):
    shape, strides, dim = call
    if gated and dim == 0:
        return
    found = agreeing([(shape, s) for s in strides], dim, merge, gated)
    if found is None:
        return
    indices = list(product(*map(range, shape)))
    wanted = sorted(tuple(sum(i * s for i, s in zip(at, each, strict=True)) for each in strides) for at in indices)
    paired = [list(_addresses(geometry)) for geometry in found]
    assert sorted(zip(*[[a for _, a in each] for each in paired], strict=True)) == wanted
    of_address = {sum(i * s for i, s in zip(at, strides[0], strict=True)): at for at in indices}
    if merge or len(of_address) < len(indices):
        return  # channels may be merged, or an address names several elements
    for (sample, _, channel, _), address in paired[0]:
        assert of_address[address][dim] == channel
        assert not gated or of_address[address][0] == sample


def test_dense_tensors_in_one_order_are_one_row():
    turned = (120, 1, 15, 3)  # (2, 3, 8, 5) as channels_last
    (row,) = {*agreeing([((2, 3, 8, 5), turned)] * 3, 1, True, False)}
    assert row == Geometry((1, 1, 1, 240), (240, 0, 240, 1))


@pytest.mark.parametrize("kind", CASES)
def test_operators_in_pairs_of_memory_orders(kind):
    for shape, dim in (((2, 3, 4, 5), 1), ((2, 3, 5), -1), ((2, 3, 4, 5), 2)):
        compared, wrong = sweep(kind, shape, dim, most=3, every=7)
        assert compared > 100 and not wrong, wrong[0]


def test_memory_orders_are_what_their_names_say():
    t = torch.randn(2, 3, 4, 5)
    made = dict(memory_orders(t))
    assert all(torch.equal(x, t) for name, x in made.items() if "expanded" not in name)
    assert made["order (0, 2, 3, 1)"].is_contiguous(memory_format=torch.channels_last)
    assert len({(x.stride(), x.storage_offset()) for x in made.values()}) == len(made)
