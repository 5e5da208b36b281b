"""Data from a folder or a function; what cannot be made is refused with its name."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.data import TensorDataset

from actswap.errors import UsageError
from actswap.train import Data, load_data


@pytest.mark.parametrize(
    "source", ["nowhere", "no.such:thing", "tune_toy:absent", "math:pi", ":", "tune_toy:toy", "math:sqrt"]
)
def test_data_that_cannot_be_made_is_refused_with_its_name(source):
    with pytest.raises(UsageError) as caught:
        load_data(source)
    assert source in str(caught.value)


def test_a_data_function_may_return_a_pair_or_one_set():
    assert load_data("tune_toy:data").valid is not None
    from actswap.train.source import as_data

    one = TensorDataset(torch.zeros(2))
    assert as_data(one).valid is None and as_data((one, one)).valid is one and as_data(Data(one)).train is one


def test_a_data_function_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine_here.py").write_text("import torch\ndef make():\n    return [(torch.zeros(1), 0)]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    assert len(load_data("mine_here:make").train) == 1
    assert str(tmp_path) not in sys.path
