"""Killed at any change of a file, a command leaves its output absent, old or complete, and a rerun completes it.

`python benchmarks/kills.py` does the same for every command that writes, and prints the table.
"""

from __future__ import annotations

import shutil

import pytest
from killing import kill_everywhere, run_child
from kills import CASES, cache_state, judge, prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder, toys=False)
    return folder


@pytest.mark.parametrize("name", ["convert", "convert --force", "revert --force", "session, its cache"])
def test_killed_at_any_change_of_a_file(name, prepared, tmp_path):
    command, output = CASES[name]
    after, work = tmp_path / "after", tmp_path / "work"
    shutil.copytree(prepared, after)
    work.mkdir()
    assert run_child(command, after) == 0
    state = cache_state if name.startswith("session") else judge(output, prepared, after)
    found = kill_everywhere(command, prepared, state, work)
    assert found.stops >= 5 and not found.bad, str(found)
    assert found.complete and (found.old or found.absent), "both sides of the rename were seen"


def test_two_processes_write_one_output(prepared, tmp_path):
    """One wins; the output is whole, whoever it was."""
    import multiprocessing

    command, output = CASES["convert --force"]
    after = tmp_path / "after"
    shutil.copytree(prepared, after)
    assert run_child(command, after) == 0
    state = judge(output, prepared, after)
    for attempt in range(3):
        folder = tmp_path / f"both-{attempt}"
        shutil.copytree(prepared, folder)
        fork = multiprocessing.get_context("fork")
        both = [fork.Process(target=run_child, args=(command, folder)) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert state(folder) == "complete"
        assert sorted(p.name for p in (folder / output).iterdir()) == ["model.safetensors", "plan.json"]
