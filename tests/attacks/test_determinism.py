"""The same command gives the same bytes, for any number of threads; another seed gives others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import actswap

PROGRAM = """
import sys
from actswap.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.save(nn.Sequential(*layers, nn.Linear(16, 4)).eval(), tmp_path / "m.pt")
    return tmp_path


def ask(folder: Path, threads: int, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(threads)}
    environment["PYTHONPATH"] = str(Path(actswap.__file__).parent.parent)
    command = [sys.executable, "-c", PROGRAM, *arguments, "--input", "2,3,16,16"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]


@pytest.mark.parametrize("target", ["dy_relu_c", "pau"])
def test_the_same_command_gives_the_same_bytes(target, folder):
    for i, threads in enumerate((1, 2)):
        ask(folder, threads, "convert", "m.pt", "--to", target, "-o", f"out{i}")
        ask(folder, threads, "export", f"out{i}", "-o", f"out{i}.onnx", "--base", "m.pt")
    for name in ("plan.json", "model.safetensors"):
        assert (folder / "out0" / name).read_bytes() == (folder / "out1" / name).read_bytes(), name
    assert (folder / "out0.onnx").read_bytes() == (folder / "out1.onnx").read_bytes()


def test_a_seed_decides_the_random_starts():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()).eval(), torch.randn(2, 3, 4, 4)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))  # what the caller did with its own generator does not count
        before = torch.get_rng_state()
        states.append(actswap.convert(model, "dy_relu_b", x, seed=seed).model.state_dict())
        assert torch.equal(before, torch.get_rng_state())
    same = [all(torch.equal(states[0][k], other[k]) for k in states[0]) for other in states[1:]]
    assert same == [True, False]
