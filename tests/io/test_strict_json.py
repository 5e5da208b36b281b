"""JSON of strangers: bounded by the file's size, and nothing that is no JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from actswap.errors import LoadError
from actswap.io.strict_json import read_json

FILE = Path("plan.json")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"NaN", b"[Infinity]", b"-Infinity", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_json(data):
    with pytest.raises(LoadError, match="damaged"):
        read_json(data, FILE, fix="write it again")


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'{"a":{}},', b"0,"])
def test_text_that_takes_far_more_memory_than_its_file(piece):
    data = b"[" + piece * 2_000_000 + b"0]"
    with pytest.raises(LoadError, match="memory"):
        read_json(b"[" + piece * 4_000_000 + b"0]", FILE, fix="write it again")
    assert read_json(data[:300_000].rpartition(b",")[0] + b"]", FILE, fix="write it again")


def test_a_large_text_of_a_larger_file():
    """The program of a large network is a small part of its file."""
    data = b"[" + b"[0, 1]," * 900_000 + b"0]"
    with pytest.raises(LoadError, match="memory"):
        read_json(data, FILE, fix="write it again")
    assert len(read_json(data, FILE, fix="write it again", size=1 << 30)) == 900_001
