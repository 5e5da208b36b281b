"""Every pair of a source and a target: the start that is promised is the start that is given."""

from __future__ import annotations

import math

import pytest
import torch

from actswap import activations
from actswap.activations.base import StartContext
from actswap.activations.bounded import split
from actswap.activations.plain import PLAIN
from actswap.errors import StartError, UsageError
from actswap.fit.histogram import Histogram
from actswap.sites import Source


def test_table_of_starts() -> None:
    table = activations.starts_table()
    assert len(table) == len(PLAIN) * len(activations.TRAINABLE)
    assert table["relu", "acon_c"] == "limit" and table["silu", "meta_acon"] == "exact"
    assert table["relu", "dy_relu_b"] == "exact" and table["relu6", "dy_relu_b"] == "exact"
    assert table["gelu", "acon_c"] == "fit" and table["gelu", "pau"] == "fit"
    assert table["sigmoid", "acon_c"] == "morph" and table["tanh", "dy_relu_a"] == "morph"
    assert set(table.values()) == {"exact", "limit", "fit", "morph"}


@pytest.mark.parametrize("name", [spec.name for spec in activations.TRAINABLE])
def test_what_is_promised_is_what_start_gives(name: str) -> None:
    """For every plain source: the start has the promised kind, or there is none."""
    spec = activations.get(name)
    for kind in PLAIN:
        core = split(Source(kind)).core
        promise = spec.promise(core)
        context = StartContext(histogram=Histogram.uniform(-2.0, 2.0, 64))
        if promise == "none":
            with pytest.raises(StartError):
                spec.start(core, context)
            continue
        start = spec.start(core, context)
        module = spec.build(4, 1)
        module.load_start(start.params)
        assert start.kind == promise
        if start.error is not None:
            assert math.isfinite(start.error)
        assert module(torch.randn(2, 4, 3, 3)).isfinite().all()


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="meta_acon"):
        activations.get("meta_acn")
