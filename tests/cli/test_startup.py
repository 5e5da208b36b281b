"""Help and completion answer at once: they import neither torch nor anything as heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "fvcore", "scipy")
CODE = f"""
import sys
from actswap.cli.main import run
code = run(sys.argv[1:])
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print('LOADED', loaded, 'CODE', code)
"""


def start(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["bench", "--help"]])
def test_help_does_not_import_torch(arguments):
    out = start(*arguments)
    assert "LOADED [] CODE 0" in out and "Usage:" in out


def test_help_of_the_group_names_verbs_and_exit_codes():
    out = start("--help")
    assert all(verb in out for verb in ("scan", "convert", "verify", "export", "revert", "doctor"))
    assert "130 interrupted" in out


def complete(words: str, at: int) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from actswap.cli.main import main; main()"],
        cwd=ROOT,
        env={**os.environ, "_ACTSWAP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)},
        capture_output=True,
        text=True,
        check=False,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported and not imported & set(HEAVY)
    return done.stdout


def test_completion_of_verbs_and_activations_does_not_import_torch():
    assert "convert" in complete("actswap con", 1)
    assert "acon_c" in complete("actswap convert m.pt --to acon_", 4)
