"""Prepared models on disk are read only if this user alone could have written them, for this very key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actswap.onnx import cache

KEY, OTHER = "a" * 40, "b" * 40


def entry(folder: Path) -> Path:
    assert cache.write(KEY, b"body", folder) == ""
    return folder / f"{KEY}.prepared"


def test_an_entry_comes_back_and_belongs_to_this_user_alone(tmp_path):
    file = entry(tmp_path / "cache")
    assert cache.read(KEY, tmp_path / "cache") == b"body"
    assert file.stat().st_mode & 0o777 == 0o600 and (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_entry_that_others_may_write_to_is_not_read(mode, tmp_path):
    entry(tmp_path).chmod(mode)
    assert cache.read(KEY, tmp_path) is None


def test_an_entry_of_another_user_is_not_read(tmp_path, monkeypatch):
    entry(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.read(KEY, tmp_path) is None


def test_an_entry_of_another_key_a_link_a_pipe_and_damage_are_not_read(tmp_path):
    file = entry(tmp_path)
    other = tmp_path / f"{OTHER}.prepared"
    other.write_bytes(file.read_bytes())  # a whole entry, under a name that is not its own
    other.chmod(0o600)
    assert cache.read(OTHER, tmp_path) is None
    other.unlink()
    other.symlink_to(file)
    assert cache.read(OTHER, tmp_path) is None
    other.unlink()
    os.mkfifo(other)
    assert cache.read(OTHER, tmp_path) is None
    for bad in (b"", b"short", file.read_bytes()[:-1], file.read_bytes() + b"x"):
        file.write_bytes(bad)
        assert cache.read(KEY, tmp_path) is None


def test_without_a_home_there_is_no_cache(monkeypatch):
    for name in ("ACTSWAP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache.cache_folder() is None


def test_a_folder_that_cannot_be_written_is_said_in_words(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in cache.write(KEY, b"body", tmp_path / "file")
