"""Zip files are checked as a whole: what torch wrote is listed, what was made by hand is refused with what is odd."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from actswap.errors import LoadError
from actswap.io.archive import check_zip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "m.pt")
    return tmp_path / "m.pt"


def write(path: Path, *records: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records:
            archive.writestr(name, data)
    return path


def test_the_records_of_a_file_of_torch_are_listed_without_their_folder(saved: Path) -> None:
    names = check_zip(saved)
    assert {"data.pkl", "data/0", "version", "byteorder"} <= set(names) and not any(n.startswith("m/") for n in names)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([("a/x", b"1"), ("b/y", b"2")], "not in a subdirectory"),
        ([("a/x", b"1"), ("a/../x", b"2")], "an odd name"),
        ([("a/x", b"1"), ("a/", b"")], "an odd name"),
    ],
)
def test_names_that_torch_does_not_write(records: list[tuple[str, bytes]], why: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=why):
        check_zip(write(tmp_path / "m.pt", ("a/version", b"3\n"), *records))


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", ("a/data.pkl", b"0" * 10_000), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(LoadError, match="compressed"):
        check_zip(path)


def test_a_changed_byte_and_a_cut_file_are_damage(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    at = data.index(torch.arange(4.0).numpy().tobytes())
    data[at + 1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(LoadError, match="checksum of its record"):
        check_zip(saved)
    saved.write_bytes(data[: len(data) // 2])
    with pytest.raises(LoadError, match="is damaged"):
        check_zip(saved)
