"""What the tests of all verbs start from: a folder with a model and inputs, and a way to ask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from actswap.cli.main import run


@pytest.fixture
def folder(library_model, image, tmp_path, monkeypatch) -> Path:
    """A folder with m.pt and x.npz, and the process in it."""
    torch.save(library_model, tmp_path / "m.pt")
    np.savez(tmp_path / "x.npz", image.numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(capsys):
    """Run a command with --json; return (exit code, object, stderr)."""

    def ask(*arguments: str):
        code = run([*arguments, "--json"])
        out, err = capsys.readouterr()
        data = json.loads(out)
        assert data["schema"] == 1
        return code, data, err

    return ask
