"""`actswap fit`: starts in numbers, and as pictures."""

import math

import pytest


def test_a_limit_start_has_the_bound_of_the_paper(ask):
    code, data, _ = ask("fit", "relu", "--to", "acon_c")
    (entry,) = data["fits"]
    assert code == 0 and entry["kind"] == "limit"
    assert entry["bound"] == pytest.approx(0.2784645 / math.exp(entry["params"]["log_beta"]), rel=1e-3)


def test_a_fit_is_as_good_as_it_says_and_drawn(folder, ask):
    code, data, _ = ask("fit", "gelu", "--to", "pau", "--range", "-4", "4", "--plot", "gelu.png")
    (entry,) = data["fits"]
    assert code == 0 and entry["kind"] == "fit" and 0 < entry["rms"] <= entry["error"] < 0.01
    assert (folder / "gelu.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_all_sites_of_a_bundle(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("fit", "m.acon_c", "--plot", "pictures")
    assert code == 0 and [entry["site"] for entry in data["fits"]] == ["1", "3"]
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == ["000-1.png", "001-3.png"]


def test_a_source_alone_is_not_enough(ask):
    code, data, _ = ask("fit", "relu")
    assert code == 2 and data["error"]["fix"] == "actswap fit relu --to pau"
