"""A pickle is read as a description: the same data, names instead of imports, and nothing runs."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hostile import Pickle, Runs

from actswap.errors import LoadError
from actswap.io.pickles import NOTHING, Made, Name, Stored, describe, parts

PLAIN = [None, True, -7, 1 << 100, 2.5, "text", b"bytes", (1, (2,)), [1, [2]], {"k": [1]}, {1, 2}, frozenset("a")]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=str)
def test_plain_data_is_read_as_it_is(value: Any, protocol: int) -> None:
    if isinstance(value, (set, frozenset, bytes)) and protocol < 4:
        return  # these protocols write them as calls, see below
    assert describe(pickle.dumps(value, protocol)) == value


def test_a_call_is_described_and_not_made(tmp_path: Path) -> None:
    found = describe(pickle.dumps(Runs(tmp_path / "ran"), 2))
    assert isinstance(found, Made) and found.what.name == "mkdir" and found.args == (str(tmp_path / "ran"),)
    assert found.call and not (tmp_path / "ran").exists()


def test_containers_show_their_items_and_instances_their_state() -> None:
    found = describe(pickle.dumps(OrderedDict(a=1), 2))
    assert str(found.what) == "collections.OrderedDict" and found.pairs == [("a", 1)] and found.state is NOTHING
    made = describe(Pickle().new("package.module", "Class", {"x": 1}).data + b".")
    assert made.what == Name("package.module", "Class") and made.state == {"x": 1} and not made.call


def test_references_to_storages_keep_their_key() -> None:
    found = describe(Pickle().raw(b"(").value("storage").value("0").raw(b"tQ").data + b".")
    assert isinstance(found, Stored) and found.key == ("storage", "0")


def test_names_of_python_2_are_mapped_as_pickle_maps_them() -> None:
    assert str(describe(Pickle().name("__builtin__", "set").data + b".")) == "builtins.set"
    assert str(describe(Pickle().name("copy_reg", "_reconstructor").data + b".")) == "copyreg._reconstructor"


def test_every_part_is_seen_once_even_in_a_circle() -> None:
    circle: list[Any] = [1, {"k": (2, 3)}]
    circle.append(circle)
    found = list(parts(describe(pickle.dumps(circle, 4))))
    assert sum(isinstance(part, list) for part in found) == 1 and {1, 2, 3} <= {p for p in found if type(p) is int}


def test_a_file_is_read_to_the_end_of_its_first_pickle() -> None:
    file = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps([2], 2) + b"rest")
    assert (describe(file), describe(file), file.read()) == ([1], [2], b"rest")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02K\x01K\x02.",
        b"\x80\x02(.",
        b"\x80\x02t.",
        b"\x80\x02h\x05.",
        b"\x80\x02]K\x01b.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01K\x02R.",
        pickle.dumps(1 << 129),
        pickle.dumps({((1,),): 2}, 4),
    ],
)
def test_what_is_damaged_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(LoadError, match=r"pickle|calls something"):
        describe(data)


@pytest.mark.parametrize("opcode", [b"i", b"o", b"\x92", b"\x82\x01"])
def test_opcodes_that_torch_never_writes_are_refused(opcode: bytes) -> None:
    with pytest.raises(LoadError):
        describe(b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00x" + opcode + b".")
