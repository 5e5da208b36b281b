"""`actswap convert`: proved, then written; nothing is written otherwise."""

from __future__ import annotations

import errno
import shlex
from pathlib import Path

import pytest
import torch

from actswap.cli.main import run
from actswap.errors import VerificationError
from actswap.io import atomic, bundle_files, tensor_file


def test_convert_verify_show_revert(folder, ask):
    code, data, err = ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")
    assert code == 0 and data["output"] == "m.acon_c"
    report = data["report"]
    assert len(report["replaced"]) == 2 and report["census"]["complete"] and report["parity"]["rel"] <= 1e-3
    assert data["cost"]["after"]["flops"] > data["cost"]["before"]["flops"]
    assert "Next: actswap export m.acon_c" in err

    code, data, _ = ask("verify", "m.pt", "m.acon_c", "--input", "x.npz")
    assert code == 0 and data["passed"] and data["parity"]["rel"] == pytest.approx(report["parity"]["rel"], rel=1e-3)
    code, data, _ = ask("verify", "m.pt", "m.acon_c", "--input", "x.npz", "--tolerance", "1e-9")
    assert code == 1 and not data["passed"] and data["parity"]["first_divergent_site"]

    code, data, _ = ask("show", "m.acon_c")
    assert code == 0 and data["base"]["file"] == "m.pt" and data["plan"]["target"] == "acon_c"

    code, data, _ = ask("revert", "m.acon_c", "-o", "back.pt")
    assert code == 0 and data["same_as_base"] is True
    code, data, _ = ask("verify", "m.pt", "back.pt", "--input", "x.npz")
    assert data["parity"]["max_abs"] == 0


def test_dry_run_shows_the_same_table_and_writes_nothing(folder, capsys):
    arguments = ["convert", "m.pt", "--to", "acon_c", "--input", "x.npz"]
    assert run([*arguments, "--dry-run"]) == 0
    dry, _ = capsys.readouterr()
    assert sorted(p.name for p in folder.iterdir()) == ["m.pt", "x.npz"]
    assert run(arguments) == 0
    real, _ = capsys.readouterr()
    assert dry == real and "2 sites replaced" in dry


def test_options_reach_the_library(folder, ask):
    code, data, _ = ask(
        *("convert", "m.pt", "--to", "meta_acon", "--input", "x.npz", "--option", "space=layer", "--option", "r=4"),
        *("--only", "3", "--start", "limit", "--tolerance", "0.01", "-o", "out"),
    )
    assert code == 0 and [e["site"]["name"] for e in data["report"]["replaced"]] == ["3"]
    assert data["report"]["tolerance"] == 0.01
    plan = bundle_files.read("out")["plan"]
    assert plan["choices"][0]["options"] == {"space": "layer", "r": 4}


def test_calibration_inputs_are_used(folder, ask):
    code, data, err = ask(
        "convert",
        "m.pt",
        "--to",
        "pau",
        "--input",
        "x.npz",
        "--calibration",
        "x.npz",
        "--dry-run",
        "--start",
        "fit",
        "--tolerance",
        "10",
    )
    assert code == 0 and {e["start"] for e in data["report"]["replaced"]} == {"fit"}
    assert "Calibration: 2x3x12x12" in err


def test_pt2_runs_without_the_model(folder, ask):
    code, data, _ = ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz", "--format", "pt2")
    assert code == 0 and data["output"] == "m.acon_c.pt2"
    code, data, _ = ask("verify", "m.pt", "m.acon_c.pt2", "--input", "x.npz")
    assert code == 0 and data["passed"]


def test_a_converted_model_can_be_converted_again(folder, ask):
    """A second conversion finds what is left; where nothing is, it says so."""
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz", "--only", "1", "-o", "one")[0] == 0
    code, data, _ = ask("convert", "one", "--to", "acon_b", "--input", "x.npz", "-o", "two")
    assert code == 0 and [e["site"]["name"] for e in data["report"]["replaced"]] == ["3"]
    code, data, _ = ask("convert", "two", "--to", "acon_a", "--input", "x.npz", "-o", "three")
    assert code == 2 and data["error"]["fix"]
    assert not Path("three").exists()


def test_no_activation_found(folder, ask):
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 4)), "plain.pt")
    code, data, _ = ask("convert", "plain.pt", "--to", "acon_c")
    assert code == 2 and data["error"]["fix"]


def test_a_failed_verification_writes_nothing(folder, ask, monkeypatch):
    def fail(*args, **kwargs):
        raise VerificationError("the converted model differs", why="relative error 0.5", fix="--start morph")

    monkeypatch.setattr("actswap.conversion.pipeline.convert", fail)
    code, data, _ = ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")
    assert code == 1 and data["error"]["why"] == "relative error 0.5"
    assert sorted(p.name for p in folder.iterdir()) == ["m.pt", "x.npz"]


def test_an_interrupt_leaves_no_half_file(folder, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_file, "save_file", interrupt)
    assert run(["convert", "m.pt", "--to", "acon_c", "--input", "x.npz"]) == 130
    assert "every output is complete, or as it was before" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["m.pt", "x.npz"]


def test_a_full_disk_leaves_the_old_bundle(folder, ask, monkeypatch):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    before = {p.name: p.read_bytes() for p in Path("m.acon_c").iterdir()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", full)
    code, data, _ = ask("convert", "m.pt", "--to", "acon_b", "--input", "x.npz", "-o", "m.acon_c", "--force")
    assert code == 2 and "No space left" in data["error"]["why"]
    assert {p.name: p.read_bytes() for p in Path("m.acon_c").iterdir()} == before


def test_another_target_per_selector(folder, ask):
    code, data, _ = ask("convert", "m.pt", "--to", "3=meta_acon(space=layer)", "--to", "acon_c", "--input", "x.npz")
    assert code == 0 and data["output"] == "m.meta_acon+acon_c"
    assert [e["target"] for e in data["report"]["replaced"]] == ["acon_c", "meta_acon"]
    assert bundle_files.read(data["output"])["plan"]["choices"][1]["options"] == {"space": "layer"}
    code, data, _ = ask("convert", "m.pt", "--to", "9=pau", "--to", "acon_c", "--input", "x.npz")
    assert code == 2 and "'9' matched 0 of 2" in data["error"]["what"]
    code, data, _ = ask("convert", "m.pt", "--to", "pau", "--to", "acon_c", "--input", "x.npz")
    assert code == 2 and "two targets for all other sites" in data["error"]["what"]


def test_the_next_command_works_as_printed(small, tmp_path, monkeypatch, capsys):
    """The base stands elsewhere, is a pickle that needs a permission, and was opened with a key."""
    (tmp_path / "from").mkdir()
    monkeypatch.chdir(tmp_path)
    torch.save({"net_a": small, "net_b": small}, "from/m.pt")
    options = ["--allow", "small_net", "--key", "net_b", "--input", "1,3,12,12"]
    assert run(["convert", "from/m.pt", "--to", "acon_c", "-o", "to.acon_c", *options]) == 0
    for verb in ("export", "verify"):
        line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("Next: "))
        words = shlex.split(line.removeprefix("Next: actswap "))
        assert words[0] == verb and run(words) == 0
