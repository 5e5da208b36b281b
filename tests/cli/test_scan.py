"""`actswap scan`: the sites as a table and as JSON, and why."""

from __future__ import annotations

from actswap.cli.main import run


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
