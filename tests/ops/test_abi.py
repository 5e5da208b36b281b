"""The Python side of the C ABI says what the header says: names, values, order and types."""

import ctypes
import re
from pathlib import Path

import pytest

from actswap.ops import abi

HEADER = (Path(__file__).parents[2] / "native/include/actswap_kernels.h").read_text()
C_TYPES = {
    "uint32_t": ctypes.c_uint32,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
}


@pytest.mark.parametrize(
    ("kind", "enum"),
    [("dtype", abi.Dtype), ("op", abi.Op), ("form", abi.Form), ("basis", abi.Basis), ("flags", abi.Flags)],
)
def test_enums_are_those_of_the_header(kind, enum):
    (body,) = re.findall(rf"enum actswap_{kind} {{(.*?)}};", HEADER, re.DOTALL)
    found = {name: int(value) for name, value in re.findall(r"ACTSWAP_(\w+) = (\d+)", body)}
    assert found and found == {member.name: member.value for member in enum}


def test_versions_and_slots_are_those_of_the_header():
    numbers = dict(re.findall(r"#define ACTSWAP_(ABI|SLOTS) (\d+)", HEADER))
    assert numbers == {"ABI": str(abi.VERSION), "SLOTS": str(abi.SLOTS)}


def test_the_struct_has_the_fields_of_the_header():
    (body,) = re.findall(r"typedef struct actswap_call {(.*?)} actswap_call;", HEADER, re.DOTALL)
    wanted = []
    for line in re.sub(r"//.*", "", body).split(";"):
        words = line.replace("const ", "").strip()
        if not words:
            continue
        kind, _, names = words.partition(" ")
        for name in names.split(","):
            count = re.search(r"\[(\w+)\]", name)
            base = ctypes.c_void_p if "*" in name else C_TYPES[kind]
            bare = re.sub(r"\[.*", "", name.replace("*", "").strip())
            size = abi.SLOTS if count and count[1] == "ACTSWAP_SLOTS" else int(count[1]) if count else 1
            wanted.append((bare, base, size))
    assert [name for name, *_ in abi.Call._fields_] == [name for name, *_ in wanted]
    for name, base, size in wanted:
        assert getattr(abi.Call, name).size == size * ctypes.sizeof(base), name
