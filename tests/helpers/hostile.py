"""Objects that pickle to calls, and zip files rewritten by hand: what hostile files are made of.

Every payload is inert: all it can do is create a folder that the test names.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Runs:
    """Pickles to a call of `os.mkdir`: harmless, and seen where it happened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


class Calls:
    """Pickles to a call of any function with any arguments."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


# A serialised tree whose reading imports a module of the file's choice.
FACTORY = {"default_factory_module": "antigravity", "default_factory_name": "fly", "dict_context": []}
DICT = {"type": "collections.defaultdict", "context": json.dumps(FACTORY), "children_spec": []}
IMPORTING = json.dumps([1, DICT])


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Rewrite the records of an exported program; `change` gets (name, bytes) and returns bytes or None."""
    with zipfile.ZipFile(path) as old:
        records = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in records:
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)


class Pickle:
    """Writes a pickle opcode by opcode, protocol 2, as nothing but a hostile hand does."""

    def __init__(self) -> None:
        self.data = b"\x80\x02"

    def raw(self, data: bytes) -> Pickle:
        """Add opcodes as they are."""
        self.data += data
        return self

    def name(self, module: str, name: str) -> Pickle:
        """Push a global."""
        return self.raw(b"c" + module.encode() + b"\n" + name.encode() + b"\n")

    def value(self, value: Any) -> Pickle:
        """Push plain data, or what another Pickle pushes."""
        if isinstance(value, Pickle):
            return self.raw(value.data[2:])
        if isinstance(value, tuple):
            self.raw(b"(")
            for item in value:
                self.value(item)
            return self.raw(b"t")
        if isinstance(value, dict):
            self.raw(b"}(")
            for key, item in value.items():
                self.value(key).value(item)
            return self.raw(b"u")
        return self.raw(pickle.dumps(value, protocol=2)[2:-1])

    def call(self, module: str, name: str, *args: Any) -> Pickle:
        """Push the result of a call."""
        return self.name(module, name).value(args).raw(b"R")

    def new(self, module: str, name: str, state: Any = None) -> Pickle:
        """Push an empty instance, filled with a state."""
        self.name(module, name).raw(b")\x81")
        return self if state is None else self.value(state).raw(b"b")

    def write(self, path: Path, storages: dict[str, bytes] | None = None, **records: bytes) -> Path:
        """Write a zip file as torch.save does, with this pickle inside."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("m/data.pkl", self.data + b".")
            archive.writestr("m/version", b"3\n")
            archive.writestr("m/byteorder", b"little")
            for name, data in {**{f"data/{k}": v for k, v in (storages or {}).items()}, **records}.items():
                archive.writestr(f"m/{name}", data)
        return path


def module_state(**more: Any) -> dict[str, Any]:
    """Return the attributes that every nn.Module has, and more."""
    hooks = {"_backward_hooks": {}, "_forward_hooks": {}, "_forward_pre_hooks": {}}
    return {"training": False, "_parameters": {}, "_buffers": {}, "_modules": {}, **hooks, **more}


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 4) -> Pickle:
    """Push a reference to a storage."""
    reference = Pickle().raw(b"(").value("storage").name("torch", kind).value(key).value("cpu").value(numel)
    return reference.raw(b"tQ")


def tensor(size: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0, stored: Pickle | None = None) -> Pickle:
    """Push a tensor of torch.save."""
    hooks = Pickle().call("collections", "OrderedDict")
    return Pickle().call("torch._utils", "_rebuild_tensor_v2", stored or storage(), offset, size, stride, False, hooks)


RELU = Pickle().name("torch.nn.functional", "relu")


ANY_CLASS = Pickle().name("torch.nn.modules.linear", "Linear")


WIDE = {"0": bytes(16)}
