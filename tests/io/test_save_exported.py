"""Exported programs are self-contained, of any batch, and written whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.conversion.pipeline import convert
from actswap.errors import ExportError, FileError
from actswap.io.loading import load_model
from actswap.io.save_exported import save_pt2


def test_pt2_needs_only_torch_and_actswap(small: nn.Module, image: Tensor, tmp_path: Path) -> None:
    model = convert(small, "meta_acon", image).model
    save_pt2(model, tmp_path / "m.pt2", (image,))
    with torch.no_grad():
        torch.save((image, model(image)), tmp_path / "io.pt")
    code = (
        "import torch, actswap.activations\n"
        "x, y = torch.load('io.pt')\n"
        "program = torch.export.load('m.pt2').module()\n"
        "torch.testing.assert_close(program(x), y)\n"
        "torch.testing.assert_close(program(x[:1].repeat(5, 1, 1, 1)), y[:1].repeat(5, 1), rtol=1e-4, atol=1e-5)\n"
    )
    root = str(Path(actswap.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert load_model(tmp_path / "m.pt2").kind == "exported"


def test_an_example_of_one_sample_leaves_the_batch_free(
    library_model: nn.Module, image: Tensor, tmp_path: Path
) -> None:
    program = torch.export.load(save_pt2(library_model, tmp_path / "m.pt2", (image[:1],))).module()
    wide = image.repeat(3, 1, 1, 1)
    torch.testing.assert_close(program(wide), library_model(wide))


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).reshape(2, -1)


class OnData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_batch_that_the_model_fixes_stays_fixed(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    program = torch.export.load(save_pt2(FixedBatch(), tmp_path / "m.pt2", (x,))).module()
    assert torch.equal(program(x), FixedBatch()(x))


def test_what_cannot_be_exported_or_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--format bundle"):
        save_pt2(OnData(), tmp_path / "m.pt2", (torch.randn(2, 3),))
    assert not list(tmp_path.iterdir())
    (tmp_path / "m.pt2").write_text("mine")
    with pytest.raises(FileError):
        save_pt2(FixedBatch(), tmp_path / "m.pt2", (torch.randn(2, 3),))
    assert (tmp_path / "m.pt2").read_text() == "mine"
