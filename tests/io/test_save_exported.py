"""Exported programs are self-contained, of any batch, and written whole or not at all.

Those with our operators need `import actswap` and no more; decomposed ones need torch alone.
"""

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
from actswap.io.save_exported import export_program, save_pt2

_BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "actswap":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
import torch
"""
_LOAD = """
x, want = torch.load(sys.argv[2])
got = torch.export.load(sys.argv[1]).module()(x)
assert (got - want).abs().max() <= float(sys.argv[3]), (got - want).abs().max()
"""


def test_pt2_needs_only_torch_and_actswap(small: nn.Module, image: Tensor, tmp_path: Path) -> None:
    model = convert(small, "meta_acon", image).model
    save_pt2(model, tmp_path / "m.pt2", (image,))
    with torch.no_grad():
        torch.save((image, model(image)), tmp_path / "io.pt")
    code = (
        "import actswap, torch\n"
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


@pytest.fixture(scope="module")
def converted():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(2, 3, 9, 9)
    return actswap.convert(net, {"1": "pau", "*": "meta_acon"}, x).model, x


def test_a_decomposed_program_runs_where_actswap_is_not(converted, tmp_path):
    model, x = converted
    save_pt2(model, tmp_path / "m.pt2", (x,), decompose=True)
    other = torch.randn(3, 3, 9, 9)
    want = model.eval()(other).detach()
    torch.save((other, want), tmp_path / "io.pt")
    limit = 200 * 2**-23 * float(want.abs().max())  # sums of up to 72 products in three layers, in another order
    command = [sys.executable, "-c", _BLOCKED + _LOAD, str(tmp_path / "m.pt2"), str(tmp_path / "io.pt"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_decomposed_program_is_traced_without_our_operators(converted):
    model, x = converted
    traced = torch.jit.trace(export_program(model, x, decompose=True).module(), x)
    assert "actswap" not in str(traced.inlined_graph)
    want = model.eval()(x).detach()
    assert (traced(x) - want).abs().max() <= 200 * 2**-23 * float(want.abs().max())


def test_the_models_mode_is_kept(converted):
    model = converted[0].train()
    program = export_program(nn.Sequential(model, nn.Dropout()), converted[1])
    assert model.training
    assert not any("dropout" in str(node.target) and node.args[2] for node in program.graph.nodes if node.args[2:])
