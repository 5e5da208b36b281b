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
from safetensors.torch import load_file, save_file
from torch import Tensor

from actswap.errors import FileError, UsageError

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint on disk."""

    path: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state["step"])

    def model(self) -> dict[str, Tensor]:
        """Return the network's state_dict."""
        return load_file(self.path / "model.safetensors")

    def average(self) -> dict[str, Tensor] | None:
        """Return the averaged state_dict, None where none was kept."""
        file = self.path / "average.safetensors"
        return load_file(file) if file.exists() else None

    def process(self, rank: int) -> dict[str, Any] | None:
        """Return optimizer state and generators of a process; None where the run had fewer processes."""
        file = self.path / f"process-{rank}.pt"
        return torch.load(file, map_location="cpu", weights_only=True) if file.exists() else None


def newest(out: Path) -> Checkpoint | None:
    """Return the newest finished checkpoint of a run; half-written ones have another name."""
    folders = sorted((out / "checkpoints").glob("step-[0-9]*"))
    folders = [folder for folder in folders if (folder / "state.json").exists()]
    if not folders:
        return None
    return Checkpoint(folders[-1], json.loads((folders[-1] / "state.json").read_text()))


def write(
    out: Path,
    state: Mapping[str, Any],
    model: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    process: Mapping[str, Any],
    rank: int,
    barrier: Callable[[], None],
) -> None:
    """Write a checkpoint; every process calls this at the same step.

    The folder has its final name only when every file in it is complete and flushed, so a kill at any moment
    leaves the older checkpoint in force.

    Raises:
        FileError: the folder cannot be written.
    """
    root = out / "checkpoints"
    final, beside = root / f"step-{state['step']:08d}", root / f".writing-{state['step']:08d}"
    try:
        if rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        barrier()
        torch.save(dict(process), beside / f"process-{rank}.pt")
        if rank == 0:
            save_file(_separate(model), beside / "model.safetensors")
            if average is not None:
                save_file(_separate(average), beside / "average.safetensors")
            (beside / "state.json").write_text(json.dumps(state, indent=1))
        barrier()
        if rank == 0:
            _flush(beside)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(beside, final)
            for old in sorted(root.glob("step-[0-9]*"))[:-KEPT]:
                shutil.rmtree(old)
    except OSError as error:
        raise FileError("cannot write a checkpoint", where=str(final), why=str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write a file beside and rename it."""
    beside = path.with_name(f".{path.name}.writing")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    except OSError as error:
        raise FileError("cannot write", where=str(path), why=str(error)) from error


def check_same_run(checkpoint: Checkpoint, config: Mapping[str, Any], count: int) -> None:
    """Refuse to go on with other settings or other data: the numbers would belong to no run.

    Raises:
        UsageError: naming every setting that differs.
    """
    free = {"resume", "out", "workers", "accelerator", "checkpoint_every"}
    old = checkpoint.state["config"]
    now = json.loads(json.dumps(config))
    differing = [
        f"{key} was {old.get(key)!r}, is {now[key]!r}" for key in now if key not in free and old.get(key) != now[key]
    ]
    if checkpoint.state["images"] != count:
        differing.append(f"the training set had {checkpoint.state['images']} items, has {count}")
    if differing:
        raise UsageError(
            "cannot resume with other settings",
            where=str(checkpoint.path),
            why="; ".join(differing),
            fix="the settings of the first run, or another `out`",
        )


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Shared weights appear under two names; safetensors wants memory of its own for each.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _flush(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
