"""Storages: what cannot be opened is said in words, and a journal survives a writer that was killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from actswap.errors import UsageError
from actswap.search.storage import open_storage


@pytest.mark.parametrize(
    "url",
    ["nosuchdb://x/y", "grpc://localhost:no", "sqlite:////nonexistent/folder/x.db", "/nonexistent/folder/x.journal"],
)
def test_a_storage_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        open_storage(url)


def test_half_a_line_of_a_killed_writer_is_cut_off(tmp_path: Path) -> None:
    import optuna

    path = tmp_path / "a.journal"
    optuna.create_study(storage=open_storage(str(path)), study_name="one")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 0, "worker')
    optuna.create_study(storage=open_storage(str(path)), study_name="two")
    assert path.read_bytes().startswith(whole)
    storage = open_storage(str(path))
    assert storage is not None and optuna.get_all_study_names(storage) == ["one", "two"]


def test_the_lock_of_a_killed_writer_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    code = (
        "import os, sys; from actswap.search.storage import open_storage; "
        "open_storage(sys.argv[1])._backend._lock.acquire(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    began = time.monotonic()
    open_storage(str(path))
    assert time.monotonic() - began < 20, "Optuna's own lock would be waited for during 30 s"


def test_threads_write_one_after_the_other(tmp_path: Path) -> None:
    import optuna

    study = optuna.create_study(storage=open_storage(str(tmp_path / "a.journal")))
    threads = [threading.Thread(target=study.set_user_attr, args=(f"k{k}", k)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert study.user_attrs == {f"k{k}": k for k in range(8)}
