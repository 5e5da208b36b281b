"""Bundles made to lie, to read elsewhere or to exhaust memory are refused."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hostile import IMPORTING
from safetensors.torch import save_file

from actswap.cli.main import run
from actswap.conversion.pipeline import convert
from actswap.errors import ActswapError, LoadError
from actswap.io import bundle, bundle_files
from actswap.io.tensor_file import read_tensors


@pytest.fixture
def saved(small, image, tmp_path) -> Path:
    return bundle.save(convert(small, "acon_c", image).model, tmp_path / "out")


def edit_plan(folder: Path, edit) -> None:
    """Change a plan, and sign both files anew as somebody who means harm does."""
    document = json.loads((folder / "plan.json").read_text())
    pair = document["pair"]
    edit(document)
    if document.get("pair") == pair and isinstance(document.get("plan"), dict):
        tensors, metadata = read_tensors(folder / "model.safetensors")
        document["pair"] = bundle_files.pair_of(document["plan"], tensors, {})
        save_file(tensors, folder / "model.safetensors", {**metadata, "alias": "{}", "pair": document["pair"]})
    (folder / "plan.json").write_text(json.dumps(document))


def test_a_plan_that_is_changed_by_hand_and_signed_anew_loads(saved, small):
    """The plans below are refused for what they hold, not for their digest."""
    edit_plan(saved, lambda d: choice(d)["site"].update(line="elsewhere.py:1"))
    assert bundle.load(saved, small)


@pytest.mark.parametrize("name", ["../secret.pt", "/etc/passwd", "a/b.pt", "..", "", "a\\b"])
def test_a_base_elsewhere(name, saved, small):
    edit_plan(saved, lambda d: d["base"].update(file=name))
    with pytest.raises(LoadError, match="base"):
        bundle_files.read_base(saved)


def choice(document):
    return document["plan"]["choices"][0]


EDITS = {
    "huge channels": lambda d: choice(d)["site"].update(channels=10**12),
    "negative channels": lambda d: choice(d)["site"].update(channels=-1),
    "text channels": lambda d: choice(d)["site"].update(channels="8"),
    "huge option": lambda d: choice(d)["options"].update(degrees=[10**9, 10**9]),
    "unknown schema": lambda d: d.update(schema=99),
    "schema true": lambda d: d.update(schema=True),
    "schema of the plan": lambda d: d["plan"].update(schema=99),
    "plan is a list": lambda d: d.update(plan=[]),
    "choices is a number": lambda d: d["plan"].update(choices=3),
    "choice is a text": lambda d: d["plan"].update(choices=["x"]),
    "no site": lambda d: choice(d).pop("site"),
    "unknown target": lambda d: choice(d).update(target="os.system"),
    "path outside": lambda d: choice(d).update(path="__class__.__init__"),
    "path of a weight": lambda d: choice(d).update(path="stem.weight"),
    "deep path": lambda d: choice(d).update(path="a." * 5000 + "b"),
    "unknown option": lambda d: choice(d)["options"].update(evil=1),
    "start of another kind": lambda d: choice(d)["start"].update(params={"weight": 1.0}),
    "pair": lambda d: d.update(pair="other"),
    "one site 3000 times": lambda d: d["plan"].update(choices=[choice(d)] * 3000),
    "one path twice": lambda d: d["plan"]["choices"].append(
        {**choice(d), "site": {**choice(d)["site"], "name": "another"}}
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_plans_that_lie(edit, saved, small):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    edit_plan(saved, edit)
    with pytest.raises(ActswapError):
        bundle.load(saved, small)
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())


def test_tree_types_in_a_plan_that_import_modules(saved, small):
    def edit(document):
        call = {"spec": IMPORTING, "leaves": []}
        island = {"owner": "", "calls": [call], "sources": [], "children": [], "inline": [], "rewrites": []}
        document["plan"]["islands"].append(island)

    edit_plan(saved, edit)
    with pytest.raises(LoadError, match="tree"):
        bundle.load(saved, small)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 1}', "[" * 100_000, '{"schema": 1e999, "plan": {}}']
)
def test_plans_that_are_no_json_of_ours(text, saved, small):
    (saved / "plan.json").write_text(text)
    with pytest.raises(LoadError):
        bundle.load(saved, small)


def test_a_plan_too_large_to_read(saved, small, monkeypatch):
    monkeypatch.setattr(bundle_files, "_LARGEST_PLAN", 10)
    with pytest.raises(LoadError, match="larger"):
        bundle.load(saved, small)


def test_weights_that_lie(saved, small):
    file = saved / "model.safetensors"
    good = file.read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    for bad in (
        b"",
        good[:4],
        good[: length // 2],
        good[:-7],
        struct.pack("<Q", 1 << 60) + good[8:],
        good[:8] + b"[" + good[9:],
    ):
        file.write_bytes(bad)
        with pytest.raises(LoadError):
            bundle.load(saved, small)


def test_weights_of_another_model(saved, small):
    tensors, metadata = read_tensors(saved / "model.safetensors")
    tensors["stem.weight"] = torch.zeros(8, 3, 5, 5)
    tensors["more"] = torch.zeros(1)
    del tensors["head.bias"]
    save_file(tensors, saved / "model.safetensors", {**metadata, "alias": "{}"})
    edit_plan(saved, lambda d: None)
    with pytest.raises(LoadError, match=r"missing head.bias; unknown more; stem.weight is \(8, 3, 5, 5\)"):
        bundle.load(saved, small)


@pytest.mark.parametrize("alias", ['{"a": "gone"}', "[1]", "{", '{"a": 3}'])
def test_aliases_that_lead_nowhere(alias, saved, small):
    tensors, metadata = read_tensors(saved / "model.safetensors")
    save_file(tensors, saved / "model.safetensors", {**metadata, "alias": alias})
    with pytest.raises(LoadError):
        bundle.load(saved, small)


REPORTS = {
    "a number for the sites": {"report": {"replaced": 3, "left": []}},
    "a site without a name": {"report": {"replaced": [{"site": {}}], "left": []}},
    "a list for a name": {"report": {"replaced": [{"site": {"name": [], "source": {}, "channels": {}}}], "left": 1}},
    "a text for the cost": {"cost": "x"},
    "a text for a number": {"cost": {"before": {"parameters": "x", "flops": 1, "activations": 1}, "after": {}}},
    "nothing": {"report": None},
}  # fmt: skip


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())
def test_reports_that_are_none_of_ours(report, saved, capsys):
    edit_plan(saved, lambda d: d.update(report=report))
    assert run(["show", str(saved)]) == 3
    assert "Unexpected" not in capsys.readouterr().err


def test_names_that_steer_a_terminal_or_are_markup(saved, capsys):
    """A name from a stranger's file is shown as text: no escape sequence reaches the terminal, no markup is read."""
    name = "\x1b[2J\x07[/red]\u202eevil"

    def edit(document):
        document["plan"]["model"] = name
        site = {"name": name, "source": {"kind": "relu"}, "channels": 8}
        document["report"] = {"report": {"replaced": [{"site": site, "target": name, "start": "exact"}], "left": []}}

    edit_plan(saved, edit)
    assert run(["show", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert "[/red]" in shown and not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_a_terminal_that_knows_only_ascii(saved, monkeypatch):
    edit_plan(saved, lambda d: d["plan"].update(model="Größe"))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    assert run(["show", str(saved)]) == 0
    stream.flush()
    assert rb"Gr\xf6\xdfe" in stream.buffer.getvalue()


@pytest.mark.parametrize("file", ["plan.json", "model.safetensors"])
def test_pipes_in_the_place_of_files(file, saved, small):
    """Opening a pipe waits for somebody who writes into it."""
    (saved / file).unlink()
    os.mkfifo(saved / file)
    with pytest.raises(LoadError):
        bundle.load(saved, small)
