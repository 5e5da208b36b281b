"""The two files of a bundle: read and checked without a model, and held together by the digest of what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import actswap
from actswap.errors import LoadError
from actswap.io import bundle_files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    return actswap.save(actswap.convert(net, "acon_c", torch.randn(3, 4)).model, tmp_path / "bundle")


def test_the_digest_depends_on_the_plan_and_on_every_number(saved: Path) -> None:
    document, tensors = bundle_files.checked(saved)
    pair = bundle_files.pair_of(document["plan"], tensors, {})
    assert document["pair"] == pair
    for name, tensor in tensors.items():
        moved = {**tensors, name: tensor.clone()}
        moved[name].view(-1)[0] += 1
        assert bundle_files.pair_of(document["plan"], moved, {}) != pair, name
    assert bundle_files.pair_of({**document["plan"], "more": 1}, tensors, {}) != pair


def test_tensors_and_base_are_read_without_a_model(saved: Path) -> None:
    assert set(bundle_files.read_state(saved)) == set(bundle_files.checked(saved)[1])
    assert bundle_files.read_base(saved).file is None


def test_a_plan_of_another_bundle_does_not_belong(saved: Path) -> None:
    document = json.loads((saved / "plan.json").read_text())
    document["pair"] = "0" * 64
    (saved / "plan.json").write_text(json.dumps(document))
    with pytest.raises(LoadError, match="do not belong together"):
        bundle_files.checked(saved)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="is not a bundle"):
        bundle_files.read(tmp_path)
