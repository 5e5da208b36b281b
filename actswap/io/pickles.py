"""Read a pickle as a description of what it would build; nothing is imported, called or built.

A pickle is a program for a small stack machine. This machine runs the same opcodes. When Python's own would import a
class or call a function, this one notes the name and the arguments (`Name`, `Made`, `Stored`). `actswap.io.allowed`
says which names may be used. `actswap.io.rebuild` builds the objects.

The file bounds the memory: each opcode is charged with the memory of the object it makes, and the sum may be four times
the file's size and 64 MiB.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from actswap.errors import LoadError

MAX_BYTES = 64 << 20
MAX_OPCODES = 3_000_000
_MAX_INT = 1 << 128
_SLACK = 64 << 20
# Bytes of Python for what an opcode makes, the places on the stack or in the memo included; others take _LEAST.
_COST = {
    **dict.fromkeys(("REDUCE", "NEWOBJ"), 400),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET"), 280),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL", "EMPTY_DICT", "DICT", "SETITEM", "BINPERSID"), 200),
    **dict.fromkeys(("EMPTY_LIST", "LIST", "APPEND", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BYTEARRAY8"), 120),
}
_LEAST = 24
NOTHING = object()
_SAFER = "save the weights, torch.save(model.state_dict(), 'weights.pt'), and give --model package.module:factory"


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Made:
    """An object that the pickle makes.

    Attributes:
        what: the name of the class or function.
        args: its arguments.
        call: True if it is called; False if the class makes an empty instance (`cls.__new__(cls, *args)`).
        state: what fills the instance; NOTHING if it stays empty.
        items: what is appended to a list or added to a set.
        pairs: what is put into a dictionary.
    """

    what: Name
    args: tuple[Any, ...]
    call: bool
    state: Any = NOTHING
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(eq=False)
class Stored:
    """A reference to bytes outside of the pickle, as torch stores its tensors."""

    key: Any


_MARK = object()


class _Machine:
    """The stack, the memo and one method for each group of opcodes."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.protocol = 0

    def marked(self) -> list[Any]:
        """Take everything above the last mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise _damaged("a mark is missing")

    def put(self, value: Any) -> None:
        self.stack.append(value)

    def constant(self, value: Any) -> None:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _MAX_INT:
            raise _damaged("an integer of more than 128 bits")
        self.put(value)

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise _damaged("a global whose name is no text")
        if self.protocol < 3:  # names of Python 2, as pickle itself and torch map them
            if (module, name) in NAME_MAPPING:
                module, name = NAME_MAPPING[(module, name)]
            elif module in IMPORT_MAPPING:
                module = IMPORT_MAPPING[module]
        self.put(Name(module, name))

    def make(self, call: bool) -> None:
        args, what = self.stack.pop(), self.stack.pop()
        if type(what) is not Name or type(args) is not tuple:
            raise LoadError(
                "the file calls something that is not a name with arguments",
                why="torch.save writes no such call",
                fix=_SAFER,
            )
        self.put(Made(what, args, call))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is not Made or target.state is not NOTHING:
            raise _damaged("a state for something that has none, or already has one")
        target.state = state

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(map(_as_key, items))
        elif type(target) is Made:
            target.items.extend(items)
        else:
            raise _damaged("items for something that is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2 or type(target) not in (dict, Made):
            raise _damaged("entries for something that is no dictionary")
        pairs = [(_as_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]
        if type(target) is dict:
            target.update(pairs)
        else:
            target.pairs.extend(pairs)


def _as_key(key: Any) -> Any:
    """Return a key or set member whose hash is cheap: hashing nested tuples would take exponential time."""
    parts = key if type(key) is tuple else (key,)
    if all(type(part) in (str, int, float, bool, bytes, complex, type(None), Name, Made) for part in parts):
        return key
    raise _damaged("a key that is no text or number")


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def run(machine: _Machine, _: Any) -> None:
        items = machine.stack[-count:]
        if len(items) < count:
            raise _damaged("a tuple of too few")
        machine.stack[-count:] = [tuple(items)]

    return run


def _memoize(machine: _Machine, index: Any) -> None:
    machine.memo[len(machine.memo) if index is None else index] = machine.stack[-1]


def _protocol(machine: _Machine, version: Any) -> None:
    machine.protocol = version


def _frozen(machine: _Machine, _: Any) -> None:
    machine.put(frozenset(map(_as_key, machine.marked())))


def _dict(machine: _Machine, _: Any) -> None:
    items = machine.marked()
    machine.put({})
    machine.set_items(items)


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(module, name)


_CONSTANTS = """
BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINSTRING BINSTRING
SHORT_BINBYTES BINBYTES BINBYTES8
"""
_RUN: dict[str, Callable[[_Machine, Any], None]] = {
    **{name: lambda m, value: m.constant(value) for name in _CONSTANTS.split()},
    "PROTO": _protocol,
    "FRAME": lambda m, _: None,
    "NONE": lambda m, _: m.put(None),
    "NEWTRUE": lambda m, _: m.put(True),
    "NEWFALSE": lambda m, _: m.put(False),
    "BYTEARRAY8": lambda m, value: m.put(bytearray(value)),
    "EMPTY_LIST": lambda m, _: m.put([]),
    "EMPTY_DICT": lambda m, _: m.put({}),
    "EMPTY_SET": lambda m, _: m.put(set()),
    "EMPTY_TUPLE": lambda m, _: m.put(()),
    "MARK": lambda m, _: m.put(_MARK),
    "TUPLE": lambda m, _: m.put(tuple(m.marked())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": lambda m, _: m.put(m.marked()),
    "DICT": _dict,
    "FROZENSET": _frozen,
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "ADDITEMS": lambda m, _: m.append(m.marked()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "BINGET": lambda m, index: m.put(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.put(m.memo[index]),
    "BINPUT": _memoize,
    "LONG_BINPUT": _memoize,
    "MEMOIZE": _memoize,
    "GLOBAL": lambda m, text: m.name(*text.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda m, _: m.make(call=True),
    "NEWOBJ": lambda m, _: m.make(call=False),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.put(Stored(m.stack.pop())),
    "STOP": lambda m, _: None,
}


def describe(data: bytes | IO[bytes], size: int = 0) -> Any:
    """Read one pickle and return what it describes.

    Args:
        data: the pickle, or an open file at the pickle's first byte. The file is read up to the pickle's end.
        size: bytes of the whole file, if the pickle is a part of it; they bound the memory.

    Returns:
        Numbers, texts, lists, tuples, dictionaries and sets, with `Name`, `Made` and `Stored` for everything else.

    Raises:
        LoadError: the pickle is damaged, too large, or uses an opcode that torch.save never writes.
    """
    if isinstance(data, bytes):
        if len(data) > MAX_BYTES:
            raise LoadError(f"the file's pickle is larger than {MAX_BYTES >> 20} MiB", fix=_SAFER)
        data = io.BytesIO(data)
    source = _Bounded(data)
    most = 4 * max(size, source.size) + _SLACK
    machine, opcodes, memory = _Machine(), 0, 0
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], source)):
            opcodes += 1
            memory += _COST.get(opcode.name, _LEAST)
            run = _RUN.get(opcode.name)
            if run is None or opcodes > MAX_OPCODES:
                raise LoadError(
                    f"the file's pickle holds {opcode.name}" if run is None else "the file's pickle is too long",
                    why="torch.save does not write it",
                    fix=_SAFER,
                )
            if memory > most:
                raise LoadError("the file's pickle takes far more memory than it holds", fix=_SAFER)
            run(machine, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError) as problem:
        raise _damaged(str(problem)[:100] or type(problem).__name__) from None
    if len(machine.stack) != 1 or machine.stack[0] is _MARK:
        raise _damaged("it does not end with one object")
    return machine.stack[0]


class _Bounded:
    """An open file that allocates no more for a read than it holds: a pickle may state any length of a text."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        at = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(at)

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self.size))

    def readline(self) -> bytes:
        return self._file.readline(MAX_BYTES)

    def tell(self) -> int:
        return self._file.tell()


def parts(described: Any) -> Iterator[Any]:
    """Yield every object of a description once, even if it is used several times."""
    seen: set[int] = set()
    waiting = [described]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        if not isinstance(part, (str, int, float, bytes, type(None))):
            seen.add(id(part))
        yield part
        if isinstance(part, (list, tuple, set, frozenset)):
            waiting.extend(part)
        elif isinstance(part, dict):
            waiting.extend(part.keys())
            waiting.extend(part.values())
        elif isinstance(part, Made):
            waiting.extend((part.what, part.args, part.items, part.pairs))
            if part.state is not NOTHING:
                waiting.append(part.state)
        elif isinstance(part, Stored):
            waiting.append(part.key)


def _damaged(why: str) -> LoadError:
    return LoadError("the file's pickle is damaged", why=why, fix="copy or save the file again; or " + _SAFER)
