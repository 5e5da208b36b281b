"""`actswap search`: begins, resumes after SIGKILL to the same list, works from elsewhere, reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from search_toy import SPACE

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ("--data", "search_toy:made")


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "space.toml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_killed_and_resumed_it_ends_with_the_same_list(at: Path, ask) -> None:
    every = ("search", "space.toml", *DATA, "--set", "search.halving=0", "--storage")
    code, whole, _ = ask(*every, "whole.journal")
    assert code == 0 and whole["failed"] >= 1
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/helpers'}"}
    line = [sys.executable, "-m", "actswap.cli", *every, "cut.journal"]
    running = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = at / "cut.journal"
    while running.poll() is None and not (journal.exists() and "intermediate_value" in journal.read_text()):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it was killed while it worked"
    code, cut, _ = ask(*every, "cut.journal")
    lists = [{f["expression"]: (f["score"], f["rungs"], f["error"]) for f in d["ranking"]} for d in (whole, cut)]
    assert code == 0 and lists[0] == lists[1] and len(lists[0]) == len(whole["ranking"])


def test_a_worker_and_a_report(at: Path, ask) -> None:
    assert ask("search", "space.toml", *DATA, "--trials", "3")[1]["trials"] == 3
    code, data, _ = ask("search", "worker", "--storage", "space.journal")
    assert code == 2 and "--allow search_toy" in data["error"]["why"] and "search worker" in data["error"]["why"]
    assert ask("search", "space.toml", *DATA, "--trials", "5")[1]["trials"] == 5
    code, data, _ = ask("search", "worker", "--storage", "space.journal", "--allow", "search_toy")
    assert code == 0 and data["trials"] == 5
    code, data, _ = ask("search", "report", "--storage", "space.journal", "-o", "r.html", "--lines", "r.jsonl")
    assert code == 0 and data["files"] == ["r.jsonl", "r.html"]
    (one,) = data["searches"]
    assert one["trials"] == 5 and one["ranking"][0]["score"] == one["best_so_far"][-1][1]
    assert len([json.loads(line) for line in (at / "r.jsonl").read_text().splitlines()]) == 5
    assert ask("search", "report", "--storage", "space.journal", "-o", "r.html")[0] == 2, "it exists"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.toml", *DATA], "cannot be read"),
        (["space.toml"], "--data FOLDER"),
        (["space.toml", "--data", "search_toy:without_valid"], "no validation part"),
        (["space.toml", *DATA, "--storage", "no/folder/a.journal"], "cannot be opened"),
        (["space.toml", *DATA, "--set", "space.binary=[]"], "the space is empty"),
        (["report", "--storage", "new.journal"], "no search of the name"),
    ],
)
def test_bad_input_is_answered_in_words(at: Path, ask, arguments: list[str], words: str) -> None:
    code, data, _ = ask("search", *arguments)
    assert code == 2 and words in data["error"]["message"]


def test_a_dry_run_trains_nothing(at: Path, ask) -> None:
    code, data, _ = ask("search", "space.toml", *DATA, "--dry-run")
    assert code == 0 and data["dry_run"] and not (at / "space.journal").exists()


def test_several_processes_share_a_search(at: Path, ask) -> None:
    code, data, _ = ask("search", "space.toml", *DATA, "--workers", "2", "--trials", "8")
    assert code == 0 and data["trials"] >= 8
    logs = [json.loads(line) for line in (at / "space.journal").read_text().splitlines()]
    assert len({log["worker_id"] for log in logs}) == 2, "both of them wrote to the journal"
