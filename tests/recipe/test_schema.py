"""Tables into dataclasses: every unknown key, missing key and wrong type is named with its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from actswap.recipe.schema import read_table


@dataclass(frozen=True)
class Inner:
    start: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner
    share: float | None = None
    ramps: Mapping[str, Inner] = field(default_factory=dict)


def read(table: object) -> tuple[Outer | None, list[str]]:
    problems: list[str] = []
    return read_table(Outer, table, "top", problems), problems


def test_a_table_becomes_the_dataclass_and_whole_numbers_are_numbers():
    found, problems = read({"count": 3, "inner": {"start": 1, "names": ["a"]}, "ramps": {"beta": {"start": 2.5}}})
    assert problems == [] and found == Outer(3, Inner(1.0, ("a",)), None, {"beta": Inner(2.5)})
    assert isinstance(found.inner.start, float)


def test_all_problems_are_collected_with_their_places():
    found, problems = read({"cuont": 3, "inner": {"start": "x", "names": [1]}, "share": True, "ramps": {"beta": 1}})
    assert found is None
    assert problems == [
        "top.cuont: unknown key, did you mean count?",
        "top.count: is missing",
        "top.inner.start: must be a number, is 'x'",
        "top.inner.names[0]: must be a text, is 1",
        "top.share: must be a number, is true",
        "top.ramps.beta: must be a table, is 1",
    ]


def test_a_table_must_be_one():
    assert read([1])[1] == ["top: must be a table, is [1]"]
    long = read("x" * 100)[1][0]
    assert long.endswith("...") and len(long) < 90
