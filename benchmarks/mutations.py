"""Changes of valid files for `fuzz_loaders.py`: of bytes, zip records, pickle opcodes, JSON, TOML, safetensors headers.

A mutation is a function (valid content, dice) -> changed content. Each is made for the parts of its format that a
loader must check, and is quick: the loaders are to be tried a million times.
"""

from __future__ import annotations

import copy
import io
import json
import pickletools
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]
WORDS = ["", "x", "..", "/etc/passwd", "__class__", "forward", "os.system", "a" * 3000, "9**9**9", "\0", "\ud7ff", "é"]
NUMBERS = [0, 1, -1, 2, 255, 2**31, 2**63, 2**64, -(2**63), 10**18, 10**30, 0.5, 1e308, float("inf"), float("nan")]
OPCODES = b"(.012FGIJKLMNPQRSTUVXabcdeghijlopqrstu}]){\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8f\x92\x93\x94\x95"
# Opcodes that a hostile hand puts into a pickle: names, calls, states, references to what is not there.
GADGETS = [
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"ctorch.nn.modules.linear\nLinear\n",
    b"ctorch.nn.modules.module\ntorch.os.mkdir\n", b"cfunctools\npartial\n", b"ctorch.nn.functional\nrelu\n",
    b"ccollections\nOrderedDict\n", b"ccollections\ndefaultdict\n", b"c__builtin__\nset\n", b"ctorch\nFloatStorage\n",
    b")R", b")\x81", b"}b", b"]", b"}", b"(lp0\n", b"X\x07\x00\x00\x00forward", b"X\x09\x00\x00\x00__class__",
    b"X\x0e\x00\x00\x00_forward_hooks", b"X\x08\x00\x00\x00training", b"X\x08\x00\x00\x00_modules", b"K\x00", b"N",
    b"J\xff\xff\xff\x7f", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"G\x7f\xf8\x00\x00\x00\x00\x00\x00", b"Q",
    b"\x85", b"\x86", b"q\x00", b"h\x00", b"h\xff", b"2", b"0", b"1", b"(", b"t", b"s", b"u", b"a", b"e", b"\x90",
    b"\x91", b"\x8f", b"\x93", b"\x94", b"\x92", b"ios\nmkdir\n", b"o", b"\x82\x01", b"\x83\x01\x00", b"P1\n", b"\x97",
]  # fmt: skip
SIZES = [0, 1, 2, 3, 7, 16, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]


def bytes_of(data: bytes, dice: random.Random) -> bytes:
    """Flip, cut, repeat or overwrite a few bytes."""
    content = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(content) or 1)
        way = dice.randrange(5)
        if way == 0 and content:
            content[at] ^= 1 << dice.randrange(8)
        elif way == 1 and content:
            content[at] = dice.choice(OPCODES)
        elif way == 2:
            del content[at : at + dice.choice([1, 2, 8, 100])]
        elif way == 3:
            content[at:at] = content[at : at + dice.choice([1, 4, 64])]
        else:
            content[at : at + 8] = dice.choice([0, 1, 255, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
    return bytes(content)


# --- pickles ---


@lru_cache(maxsize=64)
def _opcodes(data: bytes) -> list[bytes]:
    starts = [at for _, _, at in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def opcodes_of(data: bytes, dice: random.Random) -> bytes:
    """Drop, repeat, exchange, insert or change a few opcodes of a pickle."""
    if dice.random() < 0.05:
        return bytes_of(data, dice)
    content = list(_opcodes(data))
    for _ in range(dice.randint(1, 4)):
        at, other, way = dice.randrange(len(content)), dice.randrange(len(content)), dice.randrange(7)
        if way == 0 and len(content) > 1:
            del content[at : at + dice.choice([1, 1, 2, 5])]
            content = content or [b"."]
        elif way == 1:
            content[at:at] = content[other : other + dice.choice([1, 2, 4, 12])]
        elif way == 2:
            content[at], content[other] = content[other], content[at]
        elif way == 3:
            content.insert(at, dice.choice(GADGETS))
        elif way == 4:
            content[at] = dice.choice(GADGETS)
        elif way == 5:
            content[at] = content[at][:1] + bytes_of(content[at][1:], dice)
        elif content[at][:1] in b"c\x8cXK":
            content[at] = content[at][:1] + content[other][1:]
    return b"".join(content)


# --- zip files ---


@lru_cache(maxsize=64)
def _records(data: bytes) -> tuple[tuple[str, bytes], ...]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return tuple((info.filename, archive.read(info)) for info in archive.infolist())


def zip_file(records: list[tuple[str, bytes]], dice: random.Random | None = None) -> bytes:
    """Write records as a zip file.

    Args:
        records: name and content of each.
        dice: if given, one field of one header, or the order of the records, is changed: sizes, offsets, checksums,
            methods, flags, names that differ between the two headers, a zip64 field, records twice.

    Returns:
        The file's bytes.
    """
    out, central = bytearray(), bytearray()
    chosen = dice.randrange(len(records)) if dice and records else -1
    way = dice.randrange(14) if dice else -1
    count = 0
    for i, (name, content) in enumerate(records):
        raw, crc, size, offset = name.encode("utf-8", "surrogatepass"), zlib.crc32(content), len(content), len(out)
        local = [20, 0x0800, 0, 0, 0, crc, size, size, len(raw), 0]
        entry = [20, 20, 0x0800, 0, 0, 0, crc, size, size, len(raw), 0, 0, 0, 0, 0, offset]
        listed, extra = raw, b""
        if i == chosen and dice is not None:
            if way == 0:
                local[dice.randrange(len(local) - 2)] = dice.choice(SIZES) & 0xFFFF
            elif way == 1:
                entry[dice.choice([0, 1, 2, 3, 10, 11, 12, 13])] = dice.choice(SIZES) & 0xFFFF
            elif way == 2:
                entry[dice.choice([6, 7, 8, 15])] = dice.choice([*SIZES, size + 1, offset + 1])
            elif way == 3:
                listed = dice.choice([b"m/data.pkl", raw + b"\0", raw.upper(), b"../" + raw, raw.replace(b"/", b"\\")])
                entry[9] = len(listed)
            elif way == 4:
                content = zlib.compress(content)[2:-4]
                local[2], entry[3], local[6], entry[7] = 8, 8, len(content), len(content)
            elif way == 5:  # sizes in a zip64 field
                extra = struct.pack("<HHQQQ", 1, 24, *(dice.choice([size, 2**40, 2**63, 0]) for _ in range(3)))
                entry[7], entry[8], entry[15], entry[10] = 2**32 - 1, 2**32 - 1, 2**32 - 1, len(extra)
            elif way == 6:
                entry[15] = dice.randrange(len(out) + 1)
        limits = [0xFFFF] * 5 + [0xFFFFFFFF] * 3 + [0xFFFF] * 2
        out += b"PK\3\4" + struct.pack("<5H3L2H", *(v & m for v, m in zip(local, limits, strict=True))) + raw + content
        for _ in range(2 if i == chosen and way == 7 else 1):
            count += 1
            wide = (6, 7, 8, 14, 15)
            fields = (v & (0xFFFFFFFF if k in wide else 0xFFFF) for k, v in enumerate(entry))
            central += b"PK\1\2" + struct.pack("<6H3L5H2L", *fields) + listed + extra
    start = len(out)
    if way == 8 and dice is not None:
        start = dice.choice(SIZES)
    if way == 9 and dice is not None:
        count = dice.choice(SIZES) & 0xFFFF
    tail = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, count & 0xFFFF, count & 0xFFFF, len(central), start & 0xFFFFFFFF, 0)
    before = bytes(8) if way == 10 else b""
    after = b"PK\5\6" + bytes(18) if way == 11 else b"x" * 30 if way == 12 else b""
    return before + bytes(out + central) + tail + after


def zip_of(data: bytes, dice: random.Random) -> bytes:
    """Change one record of a zip file and leave the zip file whole, or change how it is written."""
    records = list(_records(data))
    at = dice.randrange(len(records))
    if dice.random() < 0.6:  # the interesting records are the programs, not the numbers
        at = next((i for i, (n, _) in enumerate(records) if n.endswith(("data.pkl", "model.json", "config.json"))), at)
    name, content = records[at]
    way = dice.randrange(12)
    if way == 0:
        del records[at]
    elif way == 1:
        records[at] = (name + dice.choice(["x", "/../y", ".pkl"]), content)
    elif way < 5:
        return zip_file(records, dice)
    elif name.endswith(".json"):
        records[at] = (name, json_of(content, dice))
    elif name.endswith(".pkl"):
        records[at] = (name, opcodes_of(content, dice))
    elif name.endswith("model.pt"):
        records[at] = (name, zip_of(content, dice))
    else:
        records[at] = (name, bytes_of(content, dice))
    return zip_file(records)


# --- trees ---


def tree_of(tree: Any, dice: random.Random) -> Any:
    """Change one place of a JSON tree."""
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in children:
            places.append((node, key))
            if isinstance(child, (dict, list)):
                waiting.append(child)
    if not places:
        return dice.choice([None, [], {}, 3, "x"])
    node, key = dice.choice(places)
    way = dice.randrange(8)
    if way == 0:
        del node[key]
    elif way == 1:
        node[key] = dice.choice([None, [], {}, True, [[]], {"a": 1}])
    elif way == 2:
        node[key] = dice.choice(NUMBERS)
    elif way == 3:
        node[key] = dice.choice(WORDS)
    elif way == 4 and isinstance(node, dict):
        node[dice.choice(WORDS)] = node.pop(key)
    elif way == 5:
        other, name = dice.choice(places)
        with suppress(IndexError, KeyError, TypeError):
            node[key] = copy.deepcopy(other[name])
    elif isinstance(node[key], str) and node[key]:
        text = node[key]
        at = dice.randrange(len(text))
        node[key] = text[:at] + dice.choice([*WORDS, "(", "'", "]", "*", "1"]) + text[at + dice.randrange(3) :]
    elif isinstance(node[key], (int, float)):
        node[key] = node[key] + dice.choice([1, -1, 1000, -1000, 10**9])
    return tree


def json_of(data: bytes, dice: random.Random) -> bytes:
    """Change a JSON file: mostly its tree, sometimes its bytes."""
    if dice.random() < 0.1:
        return bytes_of(data, dice)
    tree = json.loads(data)
    for _ in range(dice.randint(1, 3)):
        tree = tree_of(tree, dice)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def safetensors_of(data: bytes, dice: random.Random) -> bytes:
    """Change the header of a safetensors file, with its length set right or not; sometimes any bytes."""
    length = int.from_bytes(data[:8], "little")
    if dice.random() < 0.3:
        return bytes_of(data, dice)
    header = json_of(data[8 : 8 + length], dice)
    stated = len(header) if dice.random() < 0.9 else dice.choice([*SIZES, 2**63, 2**64 - 1])
    return stated.to_bytes(8, "little") + header + data[8 + length :]


def toml_of(data: bytes, dice: random.Random) -> bytes:
    """Change a recipe line by line, value by value, or byte by byte."""
    lines = data.decode().splitlines()
    at = dice.randrange(len(lines))
    way = dice.randrange(5)
    if way == 0:
        return bytes_of(data, dice)
    if way == 1:
        del lines[at]
    elif way == 2:
        lines.insert(at, dice.choice(lines))
    elif way == 3:
        key = lines[at].partition("=")[0]
        value = dice.choice(
            ["true", "[]", "{}", "1e999", "-1", "'''x", "1979-05-27", json.dumps(dice.choice(WORDS)), "nan"]
        )
        lines[at] = f"{key}= {value}"
    else:
        lines[at] = lines[at].replace(dice.choice('aeiou=["'), dice.choice(["", "x", ".", "]"]))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_NAMES = "Symbol Integer Add Mul Max Min Mod FloorDiv Pow Eq And floor Abs True integer"
_TOKENS = [*_NAMES.split(), *["(", ")", ",", "'s0'", "9", "0", "-1", "="]]
_TOKENS += ["L['x']", ".size()[0]", "//", "%", "<", "==", "not", "and", "**", "__import__", ".", "eval", "9" * 30]


def text_of(data: bytes, dice: random.Random) -> bytes:
    """Change an expression token by token."""
    tokens = re.sub(r"\((?!\))|(?<!\()\)|,", r" \g<0> ", data.decode()).split()
    for _ in range(dice.choice([1, 1, 2, 3])):
        at, other = dice.randrange(len(tokens)), dice.randrange(len(tokens))
        way = dice.randrange(4)
        if way == 0 and len(tokens) > 1:
            del tokens[at]
        elif way == 1:
            tokens[at] = dice.choice(_TOKENS)
        elif way == 2:
            tokens.insert(at, dice.choice(_TOKENS))
        else:
            tokens[at:at] = tokens[other : other + dice.randint(1, 20)]
    return " ".join(tokens).encode()
