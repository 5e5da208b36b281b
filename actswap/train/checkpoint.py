"""Checkpoints: a folder per step, written beside and renamed, read without running any pickle.

`model.safetensors` and `average.safetensors` hold tensors, `state.json` the position in the run,
`process-N.pt` each process's optimizer state and random generators (torch.save, read with
`weights_only=True`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from actswap.errors import FileError, LoadError, UsageError, first_line
from actswap.io.atomic import flush
from actswap.io.checkpoint import read_weights

KEPT = 2


@dataclass(frozen=True)
class Position:
    """All that a run needs to go on from a step; tensors are copies on the CPU.

    Attributes:
        state: plain JSON data: the step, the settings, what the loop counts.
        model: the network's state_dict.
        average: the averaged state_dict, None if none is kept.
        process: optimizer state and random generators of one process; without `random` if they are another's.
    """

    state: Mapping[str, Any]
    model: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    process: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state["step"])


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint on disk."""

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state["step"])

    def position(self, rank: int) -> Position:
        """Read the checkpoint for a process; the run may have had fewer processes than now."""
        average = self.path / "average.safetensors"
        mine = self.path / f"process-{rank}.pt"
        source = mine if mine.exists() else self.path / "process-0.pt"
        try:
            process = read_weights(source)
            model = load_file(self.path / "model.safetensors")
            kept = load_file(average) if average.exists() else None
        except (OSError, SafetensorError, LoadError, RuntimeError) as error:
            raise LoadError(
                f"the checkpoint {self.path} cannot be read",
                why=first_line(error),
                fix=f"remove that folder: the run then goes on from the checkpoint before it: rm -r {self.path}",
            ) from error
        if not mine.exists():
            process = {key: value for key, value in process.items() if not key.startswith("random")}
        return Position(
            self.state,
            model,
            kept,
            process,
        )


def copied(tree: Any) -> Any:
    """Copy a tree of dicts, lists and tensors; each tensor gets memory of its own on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True).contiguous()
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    return type(tree)(copied(value) for value in tree) if isinstance(tree, (list, tuple)) else tree


def newest(out: Path) -> Checkpoint | None:
    """Return the newest finished checkpoint of a run; half-written ones have another name."""
    folders = sorted((out / "checkpoints").glob("step-[0-9]*"))
    folders = [folder for folder in folders if (folder / "state.json").exists()]
    if not folders:
        return None
    try:
        state = json.loads((folders[-1] / "state.json").read_text(encoding="utf-8"))
        valid = isinstance(state, dict) and type(state.get("step")) is int and isinstance(state.get("config"), dict)
    except (OSError, ValueError, RecursionError):
        valid = False
    if not valid:
        raise LoadError(
            f"the checkpoint {folders[-1]} cannot be read",
            why="its state.json is damaged",
            fix=f"remove that folder: the run then goes on from the checkpoint before it: rm -r {folders[-1]}",
        )
    return Checkpoint(folders[-1], state)


def write(out: Path, position: Position, rank: int, barrier: Callable[[], None]) -> Path:
    """Write a checkpoint; every process calls this at the same step.

    The folder has its final name only when every file in it is complete and flushed, so a kill at any moment
    leaves the older checkpoint in force.

    Returns:
        The checkpoint's folder.

    Raises:
        FileError: the folder cannot be written.
    """
    root = out / "checkpoints"
    final, beside = root / f"step-{position.step:08d}", root / f".writing-{position.step:08d}"
    try:
        if rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        barrier()
        torch.save(dict(position.process), beside / f"process-{rank}.pt")
        if rank == 0:
            save_file(dict(position.model), beside / "model.safetensors")
            if position.average is not None:
                save_file(dict(position.average), beside / "average.safetensors")
            (beside / "state.json").write_text(json.dumps(position.state, indent=1))
        barrier()
        if rank == 0:
            flush(beside)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(beside, final)
            for old in sorted(root.glob("step-[0-9]*"))[:-KEPT]:
                shutil.rmtree(old)
    except OSError as error:
        raise FileError("cannot write a checkpoint", where=str(final), why=str(error)) from error
    return final


def check_same_run(checkpoint: Checkpoint, config: Mapping[str, Any], count: int) -> None:
    """Refuse to go on with other settings or other data: the numbers would belong to no run.

    Raises:
        UsageError: naming every setting that differs.
    """
    free = {"resume", "out", "workers", "accelerator", "checkpoint_every", "on_divergence"}
    old = checkpoint.state["config"]
    now = json.loads(json.dumps(config))
    differing = [
        f"{key} was {old.get(key)!r}, is {now[key]!r}" for key in now if key not in free and old.get(key) != now[key]
    ]
    if checkpoint.state.get("images") != count:
        differing.append(f"the training set had {checkpoint.state.get('images')} items, has {count}")
    if differing:
        raise UsageError(
            "cannot resume with other settings",
            where=str(checkpoint.path),
            why="; ".join(differing),
            fix="the settings of the first run, or another `out`",
        )
