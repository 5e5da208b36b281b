"""Checkpoints: the newest whole one counts, and nothing in one runs."""

from __future__ import annotations

import pytest
import torch

from actswap.errors import LoadError
from actswap.train import checkpoint


def write(out, step, barrier=lambda: None):
    state = {"step": step, "config": {}, "images": 1}
    weights = {"w": torch.full((2,), float(step))}
    checkpoint.write(out, checkpoint.Position(state, weights, None, {"random": torch.zeros(1)}), 0, barrier)


def test_the_newest_whole_checkpoint_counts_and_old_ones_go(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    for step in (1, 2, 10):
        write(tmp_path, step)
    found = checkpoint.newest(tmp_path)
    position = found.position(0)
    assert found.step == 10 and float(position.model["w"][0]) == 10 and position.average is None
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000010"]

    class Killed(BaseException):
        pass

    barriers = iter([lambda: None])

    def dies_while_writing():
        step = next(barriers, None)
        if step is None:
            raise Killed
        step()

    with pytest.raises(Killed):
        write(tmp_path, 11, dies_while_writing)
    assert checkpoint.newest(tmp_path).step == 10


def test_shared_weights_are_saved_and_come_back(tmp_path):
    shared = torch.arange(3.0)
    state = {"step": 1, "config": {}, "images": 1}
    model = checkpoint.copied({"a": shared, "b": shared})
    process = {"optimizer": {"lr": 0.5}, "random": torch.zeros(1)}
    checkpoint.write(tmp_path, checkpoint.Position(state, model, {"a": shared}, process), 0, lambda: None)
    found = checkpoint.newest(tmp_path).position(0)
    assert torch.equal(found.model["a"], shared) and torch.equal(found.model["b"], shared)
    assert torch.equal(found.average["a"], shared) and found.process.keys() == process.keys()
    other = checkpoint.newest(tmp_path).position(1)  # a process that the run did not have
    assert other.process == {"optimizer": {"lr": 0.5}}


def test_copies_do_not_follow_what_they_were_made_of():
    tensor = torch.zeros(2)
    tree = {"a": [tensor, (1, tensor)], "b": None}
    copy = checkpoint.copied(tree)
    tensor.add_(1)
    assert torch.equal(copy["a"][0], torch.zeros(2)) and torch.equal(copy["a"][1][1], torch.zeros(2))
    assert copy["a"][1][0] == 1 and copy["b"] is None


class Evil:
    ran = False

    def __reduce__(self):
        return (setattr, (Evil, "ran", True))


def test_a_checkpoint_does_not_run_what_was_slipped_into_it(tmp_path):
    write(tmp_path, 1)
    found = checkpoint.newest(tmp_path)
    torch.save({"optimizer": Evil()}, found.path / "process-0.pt")
    with pytest.raises(LoadError, match="no part of weights"):
        found.position(0)
    assert not Evil.ran
