"""Errors become exit codes and sentences in one place, and every verb has help and JSON."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from factories import plain

from actswap.cli.main import VERBS, run


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
    ways = [[verb, "worker"], [verb, "report"], [verb, "assign"]] if verb == "search" else [[verb]]
    for way in ways:
        assert run([*way, "--help"]) == 0
        out, _ = capsys.readouterr()
        assert "--json" in out and "--debug" in out


def test_a_hint_is_the_users_own_command_and_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": plain().state_dict(), "b": plain().state_dict()}, "my net.pt")
    command = ["scan", "my net.pt", "--model", "factories:plain", "--input", "1,3,8,8"]
    assert run(command) == 3
    hint = next(line for line in capsys.readouterr().err.splitlines() if "try:" in line).partition("try: actswap ")[2]
    assert shlex.split(hint) == [*command, "--key", "a"]
    assert run(shlex.split(hint)) == 0
