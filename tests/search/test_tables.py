"""The tables of a search file: what is set elsewhere is not kept, and what contradicts the network is named."""

from __future__ import annotations

from actswap.search.tables import ChildTable, SearchFile
from actswap.train import TuneConfig


def test_what_is_kept_is_plain_and_without_what_the_search_sets() -> None:
    data = SearchFile(1, tune=TuneConfig(seed=3, out="x")).to_dict()
    assert not {"seed", "out", "resume", "clip"} & data["tune"].keys(), "clip is None, which TOML does not know"
    assert isinstance(data["space"]["unary"], list) and data["child"]["network"] == "proxy"


def test_a_network_from_scratch_has_no_selectors_and_no_weights() -> None:
    wrong = ChildTable("proxy", weights="w.safetensors", only=("a",), skip=("b",), classes=-1)
    assert [text.partition(":")[0] for text in wrong.problems()] == [
        "child.classes",
        "child.only",
        "child.skip",
        "child.weights",
    ]
    assert ChildTable("net.pt", weights="w.safetensors", only=("a",)).problems() == []
