"""Layouts of tensors in a pickle are plain numbers, and span what their storage holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hostile import Pickle, storage, tensor

from actswap.errors import LoadError
from actswap.io.pickles import Made, Name, describe
from actswap.io.tensor_layout import (
    check_call,
    extent,
    flag,
    numel,
    storage_bytes,
    storage_dtype,
    storage_key,
    tensor_layout,
)


def described(source: Pickle) -> Any:
    return describe(source.data + b".")


@pytest.mark.parametrize(
    ("size", "stride"),
    [((), ()), ((3,), (2,)), ((2, 3), (3, 1)), ((4, 5, 6), (1, 4, 20)), ((2, 0), (1, 1)), ((9,), (0,))],
)
def test_an_extent_is_that_of_the_strided_tensor(size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """The tensor fits into a storage of that many elements, and not into one less."""
    n = extent(size, stride)
    made = torch.zeros(max(n, 1)).as_strided(size, stride)
    assert made.numel() == numel(size)
    if n > 1:
        with pytest.raises(RuntimeError, match="out of bounds"):
            torch.zeros(n - 1).as_strided(size, stride)


def test_a_layout_is_read() -> None:
    part = described(tensor((2, 3), (3, 1), offset=1, stored=storage("HalfStorage", "7", 8)))
    dtype, stored, offset, size, stride, grad = tensor_layout(part)
    assert (dtype, offset, size, stride, grad) == (torch.float16, 1, (2, 3), (3, 1), False)
    assert (storage_dtype(stored), storage_bytes(stored), storage_key(stored)) == (torch.float16, 16, "7")


@pytest.mark.parametrize(
    ("size", "stride"),
    [((-1,), (1,)), ((2, 3), (1,)), ((1 << 48,), (1,)), ((True,), (1,)), ((2.0,), (1,)), ((2,), ("1",))],
)
def test_sizes_that_are_no_plain_numbers_are_refused(size: Any, stride: Any) -> None:
    with pytest.raises(LoadError, match="sizes are no plain numbers"):
        tensor_layout(described(tensor(size, stride)))


def test_storages_that_torch_does_not_write_are_refused() -> None:
    with pytest.raises(LoadError, match="a storage of class"):
        tensor_layout(described(tensor((1,), (1,), stored=storage("QuantumStorage"))))
    with pytest.raises(LoadError, match="another form"):
        storage_bytes(described(storage(numel=-1)))
    with pytest.raises(LoadError, match="a storage named"):
        storage_key(described(storage(key="../0")))


def test_calls_of_weights_are_checked_by_name_and_arguments() -> None:
    part = described(tensor((1,), (1,)))
    check_call(part)
    for wrong in (replace(part, what=Name("os", "system")), replace(part, call=False)):
        with pytest.raises(LoadError, match="no part of weights"):
            check_call(wrong)
    with pytest.raises(LoadError, match="bytearray made of a number"):
        check_call(Made(Name("builtins", "bytearray"), (10**9,), call=True))
    assert flag(True) is True
    with pytest.raises(LoadError):
        flag(1)
