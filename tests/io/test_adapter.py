"""Adapters: what was trained alone, with the bits of the whole, merged into a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_toy import X, base, output, trained
from torch import nn

import actswap
from actswap.errors import UsageError


def test_an_adapter_is_small_and_gives_the_same_bits(tmp_path: Path) -> None:
    model = trained(2, 3)
    adapter = actswap.save(model, tmp_path / "adapter", only_trained=True)
    whole = actswap.save(model, tmp_path / "bundle")
    size = [(folder / "model.safetensors").stat().st_size for folder in (adapter, whole)]
    assert size[0] < size[1] / 4
    loaded = actswap.load(adapter, base())
    assert torch.equal(output(loaded), output(model))
    merged = actswap.load(actswap.save(loaded, tmp_path / "merged"), base())
    assert torch.equal(output(merged), output(model))
    assert torch.equal(output(actswap.load(adapter, base(), inplace=True)), output(model))


def test_what_was_wholly_trained_is_no_adapter(tmp_path: Path) -> None:
    model = actswap.convert(base(), "acon_c", X).model
    for buffer in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        buffer.requires_grad_(True)
    with pytest.raises(UsageError, match="whole network"):
        actswap.save(model, tmp_path / "out", only_trained=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="carries no adapter"):
        actswap.add_adapter(model, "one", tmp_path)
