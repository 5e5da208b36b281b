"""The tables of a search file: what a network from scratch cannot have, and data that reads as the same search."""

from __future__ import annotations

import json

import pytest

from actswap.search.file import read_document
from actswap.search.tables import PLACED_BY_SEARCH, SCHEMA, ChildTable, SearchFile


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (ChildTable(rungs=9), ["child.rungs: must be 1 to 8, is 9"]),
        (ChildTable(classes=-1), ["child.classes: must not be negative, is -1"]),
        (ChildTable(weights="w.pt", skip=("a",)), ["child.skip: proxy is built", "child.weights: proxy is trained"]),
        (ChildTable("torchvision:resnet18", "w.pt", only=("layer1.*",)), []),
        (ChildTable(), []),
    ],
)
def test_every_value_that_cannot_be_used_is_named(table: ChildTable, words: list[str]) -> None:
    problems = table.problems()
    assert [problem[: len(word)] for problem, word in zip(problems, words, strict=True)] == words


def test_networks_from_scratch_are_known_by_name() -> None:
    assert ChildTable("proxy").from_scratch and ChildTable("resnet20").from_scratch
    assert not ChildTable("torchvision:resnet18").from_scratch


def test_a_search_is_plain_data_that_reads_as_the_same_search() -> None:
    search = SearchFile(SCHEMA, "one line", child=ChildTable(classes=10))
    data = json.loads(json.dumps(search.to_dict()))
    assert not set(PLACED_BY_SEARCH) & set(data["tune"]), "seeds and folders are the search's own"
    assert all(value is not None for table in data.values() if isinstance(table, dict) for value in table.values())
    data["data"] = {**data["data"], "source": "package.module:made"}
    again = read_document(data, "storage", "worker", ["package"])
    assert (again.title, again.child, again.space) == (search.title, search.child, search.space)
