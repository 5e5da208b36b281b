"""The whole way on a real network: SqueezeNet's ImageNet weights, 20 labelled photos, accuracy at every step.

make demo            (or: python recipes/demo.py FOLDER)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import realmodels  # noqa: E402
import torch  # noqa: E402

from actswap.io.loading import load_model  # noqa: E402
from actswap.onnx.proof import plain_session  # noqa: E402

CASE = realmodels.REAL["squeezenet"]


def actswap(folder: Path, *arguments: str) -> None:
    """Run one command in the folder, as a user would, and stop if it fails."""
    print(f"\n$ actswap {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "actswap.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if code:
        sys.exit(code)


def main(folder: Path) -> None:
    """Make the model file, then convert, verify, export, revert; say the accuracy after each."""
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = CASE.build()
    torch.save(model, folder / "squeezenet.pt")
    np.savez(folder / "photos.npz", CASE.inputs().numpy())
    print(f"squeezenet.pt: {CASE.accuracy(model)} (20 labelled photos)")

    actswap(folder, "convert", "squeezenet.pt", "--to", "meta_acon")
    converted = load_model(folder / "squeezenet.meta_acon").module
    print(f"squeezenet.meta_acon: {CASE.accuracy(converted)}")

    actswap(folder, "verify", "squeezenet.pt", "squeezenet.meta_acon", "--input", "photos.npz")
    actswap(folder, "export", "squeezenet.meta_acon")
    session = plain_session(folder / "squeezenet.meta_acon.onnx")
    name = session.get_inputs()[0].name
    in_onnx = CASE.accuracy(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]))
    print(f"squeezenet.meta_acon.onnx in ONNX Runtime: {in_onnx}")

    actswap(folder, "revert", "squeezenet.meta_acon")
    reverted = load_model(folder / "squeezenet.meta_acon.reverted.pt").module
    print(f"squeezenet.meta_acon.reverted.pt: {CASE.accuracy(reverted)}")
    print(f"\nDemo done in {time.monotonic() - began:.0f} s; the files are in {folder}/")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
