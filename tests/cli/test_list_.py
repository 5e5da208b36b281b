"""`actswap list`: names, papers, options, and what the starts promise."""

from actswap.activations import SPECS


def test_trainable_activations_and_all_of_them(ask):
    code, data, _ = ask("list")
    names = [entry["name"] for entry in data["activations"] if entry["trainable"]]
    assert code == 0 and {"acon_a", "acon_b", "acon_c", "meta_acon", "pau"} <= set(names)
    _, data, _ = ask("list", "--all")
    assert {entry["name"] for entry in data["activations"]} == set(SPECS)


def test_starts_of_each_pair(ask):
    _, data, _ = ask("list", "--starts")
    assert data["starts"]["relu"]["acon_c"] == "limit" and data["starts"]["silu"]["acon_c"] == "exact"
