"""Tensor files: every name comes back, the same tensors give the same bytes, and damage is told in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actswap.errors import LoadError
from actswap.io.tensor_file import read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16), "none": torch.zeros(0)}


def test_tensors_and_metadata_come_back_under_all_their_names(tmp_path: Path) -> None:
    write_tensors(TENSORS, {"b": "a"}, tmp_path / "t", {"pair": "p"})
    found, metadata = read_tensors(tmp_path / "t")
    assert set(found) == {"a", "b", "half", "none"} and metadata["pair"] == "p" and metadata["format"] == "pt"
    assert found["b"] is found["a"]
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "pqrs":
        write_tensors(TENSORS, {"b": "a"}, tmp_path / name, {"pair": "p", "other": "o", "third": "t"})
    assert len({(tmp_path / name).read_bytes() for name in "pqrs"}) == 1


def test_what_is_missing_or_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="is missing"):
        read_tensors(tmp_path / "t")
    write_tensors(TENSORS, {"b": "nothing"}, tmp_path / "t", {})
    with pytest.raises(LoadError, match="is damaged"):
        read_tensors(tmp_path / "t")
    (tmp_path / "t").write_bytes(b"\xff" * 40)
    with pytest.raises(LoadError, match="is damaged"):
        read_tensors(tmp_path / "t")
