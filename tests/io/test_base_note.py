"""The note on a bundle's base: its name and digest find it again, beside the bundle or in the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from actswap.io.base_note import Base, base_of, find_base


def test_a_file_is_noted_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"abc")
    note = base_of(tmp_path / "m.pt", "timm:resnet18", drop=("a", "b"))
    # SHA-256 of "abc", from FIPS 180-2.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert note == Base("m.pt", digest, "timm:resnet18", drop="a,b")
    assert note.to_dict() == {"file": "m.pt", "sha256": digest, "model": "timm:resnet18", "drop": "a,b"}
    assert Base().to_dict() == {"file": None, "sha256": None, "model": None}


def test_it_is_found_beside_the_bundle_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder in (beside, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    (beside / "m.pt").write_bytes(b"abc")
    note = base_of(beside / "m.pt")
    assert find_base(beside / "bundle", note) == beside / "m.pt"
    (beside / "m.pt").rename(here / "m.pt")
    assert find_base(beside / "bundle", note) == here / "m.pt"
    (here / "m.pt").write_bytes(b"another")
    assert find_base(beside / "bundle", note) is None and find_base(beside / "bundle", Base()) is None
