"""The verbs tune, run and report: exit codes, JSON, and files."""

from __future__ import annotations

import json

import pytest
import torch
from recipe_texts import GOOD, write
from recipe_toy import net

from actswap.cli.main import run

TUNE = ["--epochs", "1", "--batch", "16", "--set", "accelerator=cpu", "--allow", "recipe_toy"]


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A converted toy network on disk, in an otherwise empty current folder."""
    monkeypatch.chdir(tmp_path)
    torch.save(net().state_dict(), "net.pt")
    common = ["--model", "recipe_toy:net", "--input", "4,3,12,12"]
    assert run(["convert", "net.pt", "--to", "acon_c", "-o", "net.acon", *common]) == 0
    return tmp_path / "net.acon"


def answer(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_bundle_is_tuned_resumed_and_reported(bundle, capsys):
    capsys.readouterr()
    command = ["tune", str(bundle), "--data", "recipe_toy:data", "-o", "tuned", "--distill", "0.5", *TUNE, "--json"]
    assert run(command) == 0
    first = answer(capsys)
    assert first["steps"] == 3 and first["bundle"] == "tuned/bundle" and first["trained"] > 0
    assert run(command) == 2 and "another" in answer(capsys)["error"]["message"]
    assert run([*command, "--resume"]) == 0
    again = answer(capsys)
    assert again["resumed_from"] == 3 and again["after"] == first["after"]
    assert (
        run(
            [
                "report",
                "tuned/bundle",
                "--base",
                "net.pt",
                "--allow",
                "recipe_toy",
                "--input",
                "4,3,12,12",
                "--accuracy",
                "mine=50",
                "--json",
            ]
        )
        == 0
    )
    shown = answer(capsys)
    assert shown["output"] == "tuned/bundle.html" and shown["accuracy"]["mine"] == 50
    assert shown["accuracy"]["after fine-tuning"] == pytest.approx(100 * first["after"]["score"])
    assert "<html" in (bundle.parent / "tuned/bundle.html").read_text()
    assert (
        run(["report", "tuned/bundle", "--base", "net.pt", "--allow", "recipe_toy"]) == 2
    )  # never overwritten without --force


def test_wrong_settings_are_all_named(bundle, capsys):
    capsys.readouterr()
    wrong = ["--set", "ema=3", "--set", "epoch=1", "--lr", "-1", "--set", "schedules.beta=3"]
    assert run(["tune", str(bundle), "--data", "recipe_toy:data", "-o", "tuned", *wrong, "--json"]) == 2
    message = answer(capsys)["error"]["message"]
    for word in ("epoch: unknown key, did you mean epochs?", "schedules.beta: must be a table"):
        assert word in message
    assert run(["tune", str(bundle), "--data", "nowhere", "-o", "tuned", *TUNE, "--json"]) == 2
    assert run(["tune", "net.pt", "--model", "recipe_toy:net", "--data", "recipe_toy:data", "-o", "t", *TUNE]) == 2
    assert not (bundle.parent / "tuned").exists()


def test_a_recipe_runs_in_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = str(write(tmp_path, GOOD))
    assert run(["show", recipe]) == 0
    shown = capsys.readouterr().out
    assert "tune.batch" in shown and "convert.target" in shown and "a test" in shown
    assert run(["run", recipe, "--allow", "recipe_toy", "--dry-run"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]
    capsys.readouterr()
    assert (
        run(
            [
                "run",
                recipe,
                "--allow",
                "recipe_toy",
                "-o",
                "out",
                "--set",
                "tune.epochs=1",
                "--set",
                "export.onnx=true",
                "--json",
            ]
        )
        == 0
    )
    done = answer(capsys)
    assert done["recipe"]["tune"]["epochs"] == 1 and set(done["files"]) == {"bundle", "result", "onnx", "report"}
    for file in ("bundle/plan.json", "model.onnx", "report.html", "result.json", "tune/metrics.jsonl"):
        assert (tmp_path / "out" / file).exists(), file
    assert run(["run", recipe, "--allow", "recipe_toy", "-o", "out"]) == 2  # the folder holds a result
    assert (
        run(["run", recipe, "--allow", "recipe_toy", "-o", "new", "--data", "no/folder"]) == 2
        and not (tmp_path / "new").exists()
    )
