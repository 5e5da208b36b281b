"""What every activation shares: loading of start values, one set per layer or channel."""

from __future__ import annotations

import pytest
import torch
from activation_modules import SLOPES

from actswap import activations
from actswap.activations.base import StartContext, per_channel, pooled_mean, samples, widened
from actswap.errors import StartError, UsageError
from actswap.sites import Source


@pytest.mark.parametrize("name", ["swish", "acon_a", "acon_b", "acon_c", "meta_acon", "pau", "opau", "hp1", "hp2"])
def test_one_set_per_layer_or_per_channel(name: str) -> None:
    """`per_channel` decides the sharing; what differs by channel cannot start a shared unit."""
    spec = activations.get(name)
    sizes = [sum(p.numel() for p in spec.build(4, 1, per_channel=own).parameters()) for own in (False, True)]
    assert sizes[0] < sizes[1]
    start = spec.start(Source("silu"), StartContext(options={"per_channel": False}))
    module = spec.build(4, 1, per_channel=False)
    module.load_start(start.params)
    source = Source.of("swish", beta=(1.0, 2.0, 3.0, 4.0))
    with pytest.raises(StartError, match="per_channel"):
        spec.start(source, StartContext(options={"per_channel": False}))


def test_start_of_the_wrong_width_is_refused() -> None:
    start = activations.get("acon_c").start(Source.of("prelu", slope=SLOPES), StartContext())
    with pytest.raises(UsageError, match="channels=4"):
        activations.get("acon_c").build(5, 1).load_start(start.params)


def test_parameters_broadcast_along_the_channel_axis_only() -> None:
    """(C,) on any axis; one value on all."""
    values = torch.arange(1.0, 4.0)
    for dim, shape in ((1, (2, 3, 4)), (-1, (2, 4, 3)), (0, (3, 5)), (1, (2, 3))):
        x = torch.ones(shape)
        y = x * per_channel(values, x, dim)
        assert y.movedim(dim, -1).reshape(-1, 3).unique(dim=0).tolist() == [[1.0, 2.0, 3.0]]
    assert per_channel(torch.ones(1), torch.ones(2, 3), 1).shape == ()


@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 4, 5), 1), ((2, 4, 5, 3), -1), ((2, 3), 1)])
def test_pooling_is_a_mean_over_positions(shape: tuple[int, ...], dim: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = x.movedim(dim, 1).reshape(2, 3, -1)
    torch.testing.assert_close(pooled_mean(x, dim, 3), rows.mean(2))
    torch.testing.assert_close(pooled_mean(x, dim, 1), rows.mean((1, 2)).reshape(2, 1))
    assert samples(x, dim, 3) == 2


def test_half_types_widen_and_others_stay() -> None:
    for dtype, kept in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert widened(torch.zeros(2, dtype=dtype)).dtype == kept


def test_options_that_a_unit_does_not_have_are_named_with_those_it_has() -> None:
    with pytest.raises(UsageError, match=r"(?s)no option sharpness.*beta=1\.0"):
        activations.get("acon_c").check_options({"sharpness": 3.0})
