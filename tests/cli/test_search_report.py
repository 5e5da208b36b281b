"""`actswap search report` compares the searches of one storage and writes what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from search_toy import SPACE
from strict_html import Checked


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask) -> Path:
    (tmp_path / "space.toml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        command = ("search", "space.toml", "--data", "search_toy:made", "--trials", "2", "--storage", "s.journal")
        assert ask(*command, "--name", name)[0] == 0
    return tmp_path


def test_several_searches_of_one_storage_are_compared(at: Path, ask) -> None:
    named = ("search", "report", "--storage", "s.journal", "--name", "first", "--name", "second")
    code, data, _ = ask(*named, "-o", "r.html", "--lines", "r.jsonl", "--top", "1")
    assert code == 0 and [one["name"] for one in data["searches"]] == ["first", "second"]
    Checked((at / "r.html").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (at / "r.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert ask(*named, "-o", "r.html")[0] == 2 and ask(*named, "-o", "r.html", "--force")[0] == 0
    code, data, _ = ask("search", "report", "--storage", "s.journal", "--name", "third")
    assert code == 2 and "third" in data["error"]["what"]
