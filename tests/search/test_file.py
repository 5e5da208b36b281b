"""Search files: one strict schema, all problems at once, and code only with the user's word."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_toy import SPACE

from actswap.errors import UsageError
from actswap.search.file import read_document, read_search

DATA = 'data.source="search_toy:made"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "space.toml").write_text(SPACE)
    return tmp_path / "space.toml"


def test_what_a_search_keeps_reads_as_the_same_search(file: Path) -> None:
    read = read_search(file, [DATA, "tune.clip=1.0"])
    assert read.space.size == 32 and read.child.rungs == 2 and read.tune.clip == 1.0
    assert read_document(read.to_dict(), "storage", "worker", ["search_toy"]) == read


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("space.unary=[]", ["the space is empty"]),
        ('space.unary=["beta"]', ["no function of x"]),
        ('space.unary=["sigmoyd(x)"]', ["no 'sigmoyd(x)'", "nearest are sigmoid(x)"]),
        ("space.units=2.5", ["space.units: must be a whole number, is 2.5"]),
        ("space.unitz=2", ["unknown key, did you mean units?"]),
        ('search.sampler="grid"', ["unknown sampler 'grid'"]),
        ("space.units=3", ["cannot be searched exhaustively"]),
        ("search.halving=1", ["halving = 1"]),
        ("child.rungs=0", ["child.rungs: must be 1 to 8"]),
        ('child.only=["a"]', ["child.only: proxy"]),
        ("tune.seed=1", ["tune.seed: is set by the search"]),
        ("tune.distill=0.5", ["no teacher"]),
        ("schema=2", ["this actswap reads 1"]),
        ("data.source=", ["data.source: is missing"]),
        ('child.weights="../w.pt"', ["child.weights"]),
    ],
)
def test_problems_are_named(file: Path, override: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as found:
        read_search(file, [DATA, override])
    for word in words:
        assert word in str(found.value)


def test_all_problems_at_once(file: Path) -> None:
    with pytest.raises(UsageError, match="3 problems, nothing was started"):
        read_search(file, ["tune.lrr=1", "child.rung=1", "search.seeds=1", DATA])


def test_code_that_the_file_names_needs_a_word(file: Path) -> None:
    file.write_text(SPACE + '[data]\nsource = "search_toy:made"\n')
    with pytest.raises(UsageError, match=r"space\.toml --allow search_toy"):
        read_search(file)
    assert read_search(file, allow=["search_toy"]).data.source == "search_toy:made"


@pytest.mark.parametrize("text", ["schema = ", "\x00", "[[[["])
def test_what_is_no_toml(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UsageError, match="is not TOML"):
        read_search(tmp_path / "a.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_search(tmp_path / "none.toml")
