"""Files of torch.save: weights go to torch's own loader, modules are rebuilt, and what lies is refused before that."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hostile import Pickle, storage, tensor
from torch import nn

from actswap.errors import LoadError
from actswap.io.checkpoint import check_weights, is_weights_only, read_checkpoint, read_legacy, read_weights
from actswap.io.pickles import describe

WEIGHTS = OrderedDict(w=torch.arange(6.0).reshape(2, 3), half=torch.ones(2, dtype=torch.bfloat16), n=torch.tensor(3))


def same(found: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(WEIGHTS) and all(torch.equal(found[k], v) for k, v in WEIGHTS.items())


def test_weights_are_read_by_every_way(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "new.pt")
    torch.save(WEIGHTS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(tmp_path / "new.pt").value) and same(read_weights(tmp_path / "new.pt"))
    assert same(read_legacy(tmp_path / "old.pt"))
    check_weights((tmp_path / "new.pt").read_bytes())


def test_a_module_computes_the_same_and_shares_what_it_shared(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).eval()
    model[2].weight = model[0].weight
    torch.save(model, tmp_path / "m.pt")
    again = read_checkpoint(tmp_path / "m.pt").value
    x = torch.randn(4, 3)
    assert torch.equal(again(x), model(x)) and again[2].weight is again[0].weight and not again[1].training
    with pytest.raises(LoadError, match="Sequential"):
        read_weights(tmp_path / "m.pt")


def test_what_is_weights_is_told_by_its_names() -> None:
    assert is_weights_only(describe(tensor((1,), (1,)).data + b"."))
    assert is_weights_only(describe(Pickle().call("collections", "OrderedDict").data + b"."))
    assert not is_weights_only(describe(Pickle().new("torch.nn.modules.linear", "Linear").data + b"."))
    assert not is_weights_only(describe(Pickle().name("torch.storage", "load").data + b"."))


NUMBERS = {"0": torch.arange(4.0).numpy().tobytes()}


@pytest.mark.parametrize(
    ("pickle", "storages", "why"),
    [
        (tensor((5,), (1,)), NUMBERS, "reaches beyond its storage"),
        (tensor((2,), (1,), stored=storage(numel=8)), NUMBERS, "missing or of another size"),
        (tensor((2,), (1,)), {}, "missing or of another size"),
        (tensor((1 << 30,), (0,)), NUMBERS, "far more memory than the file holds"),
    ],
)
def test_weights_that_lie_are_refused(pickle: Pickle, storages: dict[str, bytes], why: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=why):
        read_checkpoint(pickle.write(tmp_path / "m.pt", storages))


def test_records_and_byte_orders_that_torch_does_not_write_here(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="code"):
        read_checkpoint(tensor((4,), (1,)).write(tmp_path / "m.pt", NUMBERS, code=b"x"))
    path = tmp_path / "big.pt"
    torch.save({}, path)
    data = path.read_bytes()
    if b"little" in data:  # the checksum is wrong then, which is found first
        path.write_bytes(data.replace(b"little", b"bigbig"))
        with pytest.raises(LoadError):
            read_checkpoint(path)


def test_damage_inside_another_file_is_told() -> None:
    file = io.BytesIO()
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(LoadError, match="no part of weights"):
        check_weights(file.getvalue())
    with pytest.raises(LoadError, match="damaged"):
        check_weights(b"PK\x03\x04 nothing")


def test_a_record_that_is_listed_and_not_there_ends_in_words() -> None:
    whole, broken = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.ones(3)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(broken, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():  # the reader cuts the first folder's length off and looks in that folder
            other = name.replace("archive/data/0", "archivX/data/0")
            target.writestr(other, source.read(name))
    assert any("archivX" in name for name in zipfile.ZipFile(broken).namelist())
    with pytest.raises(LoadError, match="the tensors inside the file are damaged"):
        check_weights(broken.getvalue())
