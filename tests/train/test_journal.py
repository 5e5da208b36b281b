"""Metrics: in memory alone, or line by line in a file that a resumed run cuts to where it goes on."""

from __future__ import annotations

import json

from actswap.train.journal import Journal


def no_barrier() -> None:
    """There is one process."""


def steps(journal: Journal) -> list[tuple[str, int]]:
    return [(row["kind"], row["step"]) for row in journal.rows]


def test_lines_stay_in_memory_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, 0, no_barrier)
    journal.log({"kind": "train", "step": 1})
    journal.resume(0, 10)
    assert steps(journal) == [("train", 1)] and journal.rows[0]["schema"] == 1 and list(tmp_path.iterdir()) == []


def test_only_the_first_process_writes(tmp_path):
    for rank in (1, 0):
        Journal(tmp_path / "run", rank, no_barrier).log({"kind": "train", "step": 1})
        assert (tmp_path / "run" / "metrics.jsonl").exists() == (rank == 0)


def test_a_resumed_run_keeps_the_lines_up_to_its_step_but_scores_the_end_anew(tmp_path):
    first = Journal(tmp_path, 0, no_barrier)
    for kind, step in (("valid", 0), ("train", 5), ("valid", 10), ("train", 15), ("valid", 20)):
        first.log({"kind": kind, "step": step})
    with first.file.open("a") as file:
        file.write('{"kind": "tra')  # cut by a kill
    second = Journal(tmp_path, 0, no_barrier)
    second.resume(20, 20)
    assert steps(second) == [("valid", 0), ("train", 5), ("valid", 10), ("train", 15)]
    second.resume(5, 20)
    assert steps(second) == [("valid", 0), ("train", 5)]
    assert [json.loads(line)["step"] for line in second.file.read_text().splitlines()] == [0, 5]
