"""The verbs end to end on a small model: results on stdout, narration on stderr, exit codes, files."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from actswap.cli.main import VERBS, run
from actswap.errors import VerificationError
from actswap.io import atomic, bundle


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


def test_scan_lists_sites_as_table_and_as_json(folder, ask, capsys):
    code, data, err = ask("scan", "m.pt", "--input", "x.npz")
    assert code == 0 and [s["name"] for s in data["sites"]] == ["1", "3"]
    assert data["sites"][0]["channels"] == 8 and not data["assumed_input"]
    assert "Model: Sequential" in err and "2x3x12x12 float32 from x.npz" in err
    assert run(["scan", "m.pt", "--input", "x.npz"]) == 0
    out, _ = capsys.readouterr()
    assert "2 activation sites (2 relu): 2 by swap" in out and "Model:" not in out


def test_scan_says_what_it_assumed(folder, ask):
    _, data, err = ask("scan", "m.pt")
    assert data["assumed_input"] and "assumed from the first layer, Conv2d" in err


def test_scan_explains_a_site_and_a_module(folder, ask):
    _, data, _ = ask("scan", "m.pt", "--input", "x.npz", "--why", "1")
    assert data["site"]["source"]["kind"] == "relu" and "swapping the module" in data["why"]
    _, data, _ = ask("scan", "m.pt", "--input", "x.npz", "--why", "4")
    assert data["site"] is None and "no activation call ran" in data["why"]
    code, data, _ = ask("scan", "m.pt", "--input", "x.npz", "--why", "elsewhere")
    assert code == 2 and "no site" in data["error"]["what"]


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
    plan = bundle.read("out")["plan"]
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


def test_export_checks_the_file_in_onnx_runtime(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("export", "m.acon_c", "--input", "x.npz")
    assert code == 0 and max(p["relative"] for p in data["parity"]) <= 1e-4
    code, data, _ = ask("verify", "m.acon_c", "m.acon_c.onnx", "--input", "x.npz", "--tolerance", "1e-2")
    assert code == 0 and data["parity"]["rel_to_size"] <= 1e-4, "as export promises"
    code, data, _ = ask("export", "m.acon_c", "--input", "x.npz")
    assert code == 2 and "exists" in data["error"]["what"]


def test_bench_gives_the_median_ratio(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("bench", "m.pt", "m.acon_c", "--input", "x.npz", "--runs", "5")
    assert code == 0 and data["ratio"] > 0 and data["ratio_quartiles"][0] <= data["ratio"] <= data["ratio_quartiles"][1]


def test_list_and_doctor(ask):
    _, data, _ = ask("list")
    names = [entry["name"] for entry in data["activations"] if entry["trainable"]]
    assert {"acon_a", "acon_b", "acon_c", "meta_acon", "pau"} <= set(names)
    _, data, _ = ask("list", "--starts")
    assert data["starts"]["relu"]["acon_c"] == "limit" and data["starts"]["silu"]["acon_c"] == "exact"
    code, data, _ = ask("doctor")
    assert code == 0 and data["packages"]["torch"] and data["missing"] == []


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["scan", "none.pt"], 3, "no file"),
        (["scan", "x.npz"], 3, "m"),
        (["convert", "m.pt"], 2, "--to"),
        (["convert", "m.pt", "--to", "acon_z", "--input", "x.npz"], 2, "acon_"),
        (["convert", "m.pt", "--to", "acon_c", "--input", "x.npz", "--only", "layer5.*"], 2, "matched 0 of 2"),
        (["convert", "m.pt", "--to", "acon_c", "--input", "1,4,12,12"], 3, "input"),
        (["convert", "m.pt", "--to", "acon_c", "--input", "1;3"], 2, "not understood"),
        (["convert", "m.pt", "--to", "acon_c", "--input", "1,3,8,8:float99"], 2, "dtype"),
        (["convert", "m.pt", "--to", "acon_c", "--input", "none.npz"], 3, "no file"),
        (["convert", "m.pt", "--to", "acon_c", "--input", "x.npz", "--option", "space"], 2, "not understood"),
        (["convert", "m.pt", "--to", "acon_c", "--input", "x.npz", "--option", "spice=1"], 2, "spice"),
        (["convert", "m.pt", "--to", "acon_c", "--tolerance", "0"], 2, "tolerance"),
        (["convert", "m.pt", "--to", "acon_c", "-o", "m.pt", "--force"], 2, "input itself"),
        (["convert", "m.pt", "--to", "acon_c", "-o", "x.npz"], 2, "exists"),
        (["convert", "m.pt", "--to", "acon_c", "-o", "no/folder/out"], 2, "does not exist"),
        (["revert", "m.pt"], 2, "not a bundle"),
        (["show", "m.pt"], 3, "not a bundle"),
        (["convret", "m.pt"], 2, "convert"),
    ],
)
def test_mistakes_have_a_code_and_a_sentence(arguments, code, text, folder, capsys):
    before = sorted(p.name for p in folder.iterdir())
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == "" and text in err and "Traceback" not in err
    assert sorted(p.name for p in folder.iterdir()) == before
    assert run([*arguments, "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == code and answer["schema"] == 1


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

    monkeypatch.setattr(bundle, "save_file", interrupt)
    assert run(["convert", "m.pt", "--to", "acon_c", "--input", "x.npz"]) == 130
    assert "nothing was written" in capsys.readouterr().err
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


def test_what_nobody_expected_is_one_line_and_a_hint(folder, capsys, monkeypatch):
    def explode(*args, **kwargs):
        raise ZeroDivisionError("deep inside")

    monkeypatch.setattr("actswap.conversion.survey.scan", explode)
    assert run(["scan", "m.pt", "--input", "x.npz"]) == 4
    err = capsys.readouterr().err
    assert "Unexpected ZeroDivisionError: deep inside" in err and "--debug" in err and "Traceback" not in err
    assert run(["scan", "m.pt", "--input", "x.npz", "--debug"]) == 4
    assert "Traceback" in capsys.readouterr().err


def test_what_libraries_print_is_not_the_result(folder, capsys, monkeypatch):
    import actswap.conversion.survey

    real = actswap.conversion.survey.scan

    def chatty(*args, **kwargs):
        print("library noise")
        return real(*args, **kwargs)

    monkeypatch.setattr("actswap.conversion.survey.scan", chatty)
    assert run(["scan", "m.pt", "--input", "x.npz", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["schema"] == 1 and "library noise" in err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb, capsys):
    assert run([verb, "--help"]) == 0
    out, _ = capsys.readouterr()
    assert "--json" in out and "--debug" in out
