"""What stands at a path is old or new, whole, and no device is ever replaced."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from safetensors import SafetensorError

from actswap.errors import FileError
from actswap.io import atomic
from actswap.io.atomic import replacing


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "f"
    for text in ("old", "new"):
        atomic.write_text(path, text)
        assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "may write to")])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(code, words, call, tmp_path, monkeypatch):
    path = tmp_path / "f"
    atomic.write_text(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FileError, match=words) as caught:
        atomic.write_text(path, "new")
    assert "unchanged" in caught.value.fix
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_pipe_and_a_device_are_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/null", "/dev/full"):
        with pytest.raises(FileError, match="device"):
            atomic.refuse_overwrite(path, overwrite=True)
        with pytest.raises(FileError, match="device"):
            atomic.write_text(path, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_names_at_the_limit_of_the_file_system(tmp_path):
    path = tmp_path / ("ü" * 127)  # 254 bytes
    atomic.write_text(path, "x")
    assert path.read_text() == "x"


def test_a_link_is_replaced_and_its_target_is_kept(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to("target")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "mine" and (tmp_path / "link").read_text() == "new"


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    stale, fresh = tmp_path / ".actswap-1-aa.part", tmp_path / ".actswap-2-bb.part"
    stale.mkdir()
    fresh.write_text("x")
    os.utime(stale, (0, 0))
    atomic.write_text(tmp_path / "f", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".actswap-2-bb.part", "f"]


def test_an_input_is_never_overwritten(tmp_path):
    (tmp_path / "a").write_text("x")
    for source in (str(tmp_path / "a"), (tmp_path / "b", tmp_path / "a")):
        with pytest.raises(FileError, match="input itself"):
            atomic.refuse_overwrite(tmp_path / "a", overwrite=True, source=source)


def test_a_full_disk_inside_a_temporary_folder_is_told_with_the_path_that_was_asked_for(tmp_path):
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(FileError) as caught, replacing(tmp_path / "out") as outer:
        outer.mkdir()
        with replacing(outer / "model.safetensors") as inner:
            inner.write_bytes(b"half")
            raise full
    assert caught.value.what == f"{tmp_path / 'out' / 'model.safetensors'} could not be written"
    assert caught.value.why == "No space left on device" and "free some space" in caught.value.fix
    assert list(tmp_path.iterdir()) == []
