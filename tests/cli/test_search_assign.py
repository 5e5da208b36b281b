"""`actswap search assign`: a front within the budget, bundles that compute what was tuned, and the command for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from search_toy import made, small

from actswap.io import bundle
from actswap.train import evaluate

QUICK = ("--set", "epochs=1", "--set", "batch=24", "--set", "accelerator=cpu", "--cost", "parameters")


def test_front_and_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(small(), "m.pt")
    options = ("--allow", "search_toy", "--data", "search_toy:made", *QUICK)
    arguments = ("search", "assign", "m.pt", *options, "--to", "acon_c", "--to", "tanh", "-o", "out")
    code, data, _ = ask(*arguments, "--trials", "5", "--budget", "12")
    assert code == 0 and len(data["tried"]) == 5 and max(one["cost"] for one in data["tried"]) <= 12
    assert data["front"] == json.loads((tmp_path / "out/front.json").read_text())["front"]
    assert (tmp_path / "out/report.html").exists()
    saved = [one for one in data["front"] if one["bundle"]]
    for one in saved:
        model = bundle.load(one["bundle"], small())
        assert evaluate(model, made()[1]) == pytest.approx(one["score"]), "the bundle is the tuned network"
    code, again, _ = ask(*arguments, "--trials", "5", "--budget", "12")
    assert code == 0 and again["tried"] == data["tried"], "a second run finds all done"


def test_bad_input_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(small(), "m.pt")
    start = ("search", "assign", "m.pt", "--allow", "search_toy", *QUICK, "-o", "out")
    code, data, _ = ask(*start, "--data", "search_toy:without_valid", "--to", "tanh")
    assert code == 2 and "no validation part" in data["error"]["what"]
    code, data, _ = ask(*start, "--data", "search_toy:made", "--to", "x*sigmoyd(x)")
    assert code == 2 and "column 3" in data["error"]["where"] and "sigmoid" in data["error"]["why"]
