"""Exported programs (`.pt2`): checked against torch's schema, every text against a grammar, then loaded by torch.

A `.pt2` is a zip file with the program as JSON, its weights as plain bytes, and example inputs as a torch.save file.
torch evaluates some of the JSON's texts (sizes, guards), imports others (tree types) and looks operators up by name.
So the JSON is walked along the dataclasses of torch's own schema: each key must be known, each value must have the
schema's type, and each text must fit the rule for its place. What has no rule must be a plain name.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import json
import keyword
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._export.serde import schema
from torch._export.serde.union import _Union
from torch.export.pt2_archive._package import PT2ArchiveReader

from actswap.capture.own_thread import patched
from actswap.capture.quiet import quiet
from actswap.errors import LoadError
from actswap.io.archive import check_zip
from actswap.io.checkpoint import check_weights
from actswap.io.expressions import is_guard, is_plain_tree, is_size
from actswap.io.operators import is_allowed, takes_enumeration
from actswap.io.strict_json import read_json
from actswap.io.tensor_layout import extent

_FIX = "export the model again, or load its weights with --model package.module:factory"
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|models/model\.json"
    r"|\.format_version|\.storage_alignment"
    r"|data/sample_inputs/model\.pt|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_MAX_NUMBERS = 1 << 31  # elements that one list of sizes in the program may ask for
_SLACK = 64 << 20

# --- the rule of each text ---


def _matching(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def _is_name(text: str) -> bool:
    return len(text) <= 512 and text.isidentifier() and text.isascii() and not keyword.iskeyword(text)


def _is_path(text: str) -> bool:
    """Return True for the dotted name of a parameter that hides no attribute of nn.Module."""
    parts = text.split(".")
    return len(text) <= 1024 and all(re.fullmatch(r"[\w@ \-]+", p) and not hasattr(nn.Module, p) for p in parts)


_PLAIN = _matching(r"[\w.:@\-/ +,>*]{0,256}")
_RULES: dict[tuple[str, str], Callable[[str], bool]] = {
    ("SymExpr", "expr_str"): is_size,
    ("ExportedProgram", "guards_code"): is_guard,
    ("ExportedProgram", "torch_version"): _PLAIN,
    ("ExportedProgram", "verifiers"): _matching(r"[A-Z]{1,40}"),
    ("ExportedProgram", "range_constraints"): _matching(r"[\w +*/().,-]{1,256}"),
    ("Node", "target"): is_allowed,
    ("Node", "metadata"): lambda text: len(text) < 1 << 20,
    ("GraphModule", "metadata"): lambda text: len(text) < 1 << 20,
    ("Argument", "as_operator"): is_allowed,
    ("Argument", "as_string"): _PLAIN,
    ("Argument", "as_strings"): _PLAIN,
    ("ConstantValue", "as_string"): _PLAIN,
    ("ModuleCallSignature", "in_spec"): is_plain_tree,
    ("ModuleCallSignature", "out_spec"): is_plain_tree,
    ("ModuleCallEntry", "fqn"): _matching(r"[\w.@]{0,1024}"),
    ("Device", "type"): _matching("cpu|cuda|mps|xpu"),
    ("InputToParameterSpec", "parameter_name"): _is_path,
    ("InputToBufferSpec", "buffer_name"): _is_path,
    ("InputToTensorConstantSpec", "tensor_constant_name"): _is_path,
    ("BufferMutationSpec", "buffer_name"): _is_path,
    ("ParameterMutationSpec", "parameter_name"): _is_path,
    ("PayloadConfig", "config"): _is_path,
    ("PayloadMeta", "path_name"): _matching(r"(weight|tensor)_\d{1,9}"),
    # Names of dictionaries and the empty name of a constant output:
    ("Node", "name"): lambda text: text == "" or _is_name(text),
    ("NamedArgument", "name"): lambda text: text == "" or _is_name(text),
}
_REFUSED = ("CustomObjArgument", "InputToCustomObjSpec", "InputTokenSpec", "OutputTokenSpec", "NamedTupleDef")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, vars(schema), include_extras=True)


class _Walk:
    """Checks JSON against a dataclass of torch's schema."""

    def __init__(self, path: str) -> None:
        self.path = path

    def check(self, kind: Any, data: Any, place: tuple[str, str], key: str) -> None:
        """Check that `data` has the type `kind`; `place` is the class and field it belongs to, `key` its whole path."""
        kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
        if isinstance(kind, str):
            kind = getattr(schema, kind)
        origin, inside = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            if data is not None:
                self.check(next(k for k in inside if k is not type(None)), data, place, key)
        elif origin is list:
            self.expect(isinstance(data, list), data, key)
            for i, item in enumerate(data):
                self.check(inside[0], item, place, f"{key}[{i}]")
        elif origin is dict:
            self.expect(isinstance(data, dict), data, key)
            for name, item in data.items():
                rule = _RULES.get(place, _is_name) if place != ("Node", "metadata") else _is_name
                self.expect(rule(name), name, f"{key}, a name")
                self.check(inside[1], item, place, f"{key}.{name}")
        elif dataclasses.is_dataclass(kind):
            self.fields(kind, data, key)
        else:
            self.leaf(kind, data, place, key)

    def fields(self, kind: Any, data: Any, key: str) -> None:
        """Check the keys of an object. A union has exactly one; a record has all that are without a default."""
        self.expect(isinstance(data, dict) and kind.__name__ not in _REFUSED, data, key)
        hints = _hints(kind)
        for name, item in data.items():
            self.expect(name in hints and not name.startswith("_"), name, f"{key}, a key")
            self.check(hints[name], item, (kind.__name__, name), f"{key}.{name}")
        if issubclass(kind, _Union):
            self.expect(len(data) == 1, data, key)
            return
        for item in dataclasses.fields(kind):
            missing = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            self.expect(item.name in data or not missing, None, f"{key}.{item.name}")

    def leaf(self, kind: Any, data: Any, place: tuple[str, str], key: str) -> None:
        """Check a number or a text."""
        if kind is str:
            self.expect(isinstance(data, str) and _RULES.get(place, _is_name)(data), data, key)
        elif kind is float:
            words = ("NaN", "Infinity", "-Infinity")
            self.expect(isinstance(data, (int, float)) or data in words, data, key)
        elif isinstance(kind, type) and issubclass(kind, enum.Enum):
            self.expect(type(data) is int and data in [member.value for member in kind], data, key)
        else:
            self.expect(type(data) is kind, data, key)
            self.expect(kind is not int or abs(data) < 1 << 63, data, key)

    def expect(self, holds: bool, data: Any, key: str) -> None:
        """Raise LoadError that names the key, unless `holds`."""
        if not holds:
            raise LoadError(
                f"the exported program holds {key.removeprefix('.')} = {_shown(data)}, which actswap does not load",
                where=self.path,
                why="it is not what torch.export writes there, and torch may run it as program text",
                fix=_FIX,
            )


def _shown(data: Any) -> str:
    if isinstance(data, int) and abs(data) >= 1 << 63:
        return "a number of more than 64 bits"
    text = json.dumps(data, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def check_exported(path: Path) -> None:
    """Check every record of a `.pt2` file before torch reads it.

    Args:
        path: the file that torch.export.save wrote.

    Raises:
        LoadError: names the record, or the key of the program, that is not allowed.
    """
    names = check_zip(path)
    for record in names:
        if not _RECORDS.fullmatch(record):
            raise LoadError(
                f"the exported program holds {record!r}, which actswap does not load", where=str(path), fix=_FIX
            )
    with PT2ArchiveReader(str(path)) as archive:
        check_weights(archive.read_bytes("data/sample_inputs/model.pt"))
        for kind in ("weights", "constants"):
            folder = f"data/{kind}/"
            config = _read_json(archive.read_bytes(f"{folder}model_{kind}_config.json"), path)
            _Walk(str(path)).check(schema.PayloadConfig, config, ("", ""), f"{kind} config")
            sizes = {
                n.removeprefix(folder): archive.archive_file.get_record_size(n) for n in names if n.startswith(folder)
            }
            _check_payloads(config["config"], sizes, path)
        program = _read_json(archive.read_bytes("models/model.json"), path)
    _Walk(str(path)).check(schema.ExportedProgram, program, ("", ""), "")
    _check_numbers(program["graph_module"]["graph"], path)


def _weights_only(load: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: load(*args, **{**kwargs, "weights_only": True})


def load_exported(path: Path) -> nn.Module:
    """Load an exported program as a module.

    Raises:
        LoadError: the file is refused; nothing of it has run.
    """
    import actswap.activations  # noqa: F401 (declares the operators that a converted program calls)

    check_exported(path)
    # In some places it unpickles any content, and if one node fails it logs the whole program.
    with patched(torch, "load", _weights_only), quiet("torch.export"):
        program = torch.export.load(path)
    module = program.module()
    for name in (
        "train",
        "eval",
    ):  # torch's own raise an error; the program's mode is fixed, so setting it does nothing
        module.__dict__.pop(name, None)
    if program.example_inputs is not None:  # inputs.py offers them when the user gives none
        module.meta["example_inputs"] = copy.copy(program.example_inputs)
    return module


def _read_json(data: bytes, path: Path) -> Any:
    return read_json(data, path, fix=_FIX, size=path.stat().st_size)


def _check_payloads(config: dict[str, Any], sizes: dict[str, int], path: Path) -> None:
    """Check that each weight is plain numbers, lies within its record, and is not far larger than the file."""
    left = 4 * path.stat().st_size + _SLACK
    for name, payload in config.items():
        meta = payload["tensor_meta"]
        if payload["use_pickle"] or meta is None or payload["path_name"] not in sizes:
            raise LoadError(f"the weight {name} of {path} is not stored as plain numbers", fix=_FIX)
        lists = (meta["sizes"], meta["strides"], [meta["storage_offset"]])
        numbers = [[n.get("as_int", -1) for n in part] for part in lists]
        if len(numbers[0]) != len(numbers[1]) or any(n < 0 for part in numbers for n in part):
            raise LoadError(f"the weight {name} of {path} has sizes that are no plain numbers", fix=_FIX)
        item = _DTYPES.get(meta["dtype"], torch.complex128).itemsize
        spans = (numbers[2][0] + extent(numbers[0], numbers[1])) * item
        left -= torch.Size(numbers[0]).numel() * item if 0 not in numbers[0] else 0
        if (spans > sizes[payload["path_name"]] and 0 not in numbers[0]) or left < 0:
            raise LoadError(f"the weight {name} of {path} is larger than what the file holds for it", fix=_FIX)


_DTYPES: dict[int, torch.dtype] = {
    int(number): getattr(torch, name)
    for number, name in (
        (1, "uint8"), (2, "int8"), (3, "int16"), (4, "int32"), (5, "int64"), (6, "float16"), (7, "float32"),
        (8, "float64"), (9, "complex32"), (10, "complex64"), (11, "complex128"), (12, "bool"), (13, "bfloat16"),
        (28, "uint16"), (29, "float8_e4m3fn"), (30, "float8_e5m2"), (31, "float8_e4m3fnuz"), (32, "float8_e5m2fnuz"),
        (33, "float8_e8m0fnu"), (34, "uint32"), (35, "uint64"),
    )
}  # fmt: skip


def _check_numbers(graph: dict[str, Any], path: Path) -> None:
    """Refuse nodes that ask for huge tensors or powers by literal numbers."""
    for node in graph["nodes"]:
        words = takes_enumeration(node["target"])
        for given in node["inputs"]:
            ((kind, value),) = given["arg"].items()
            if given["name"] in words and kind not in _ENUMERATED:
                raise LoadError(f"{node['target']} in {path} has a number for its {given['name']}", fix=_FIX)
            if kind == "as_graph":
                _check_numbers(value["graph"], path)
            product = 1
            for number in value if kind == "as_ints" else ():
                product *= max(abs(number), 1)
            if kind == "as_ints" and product > _MAX_NUMBERS and node["target"].split(".")[-2] not in _BOUNDS:
                raise LoadError(f"{node['target']} in {path} asks for {product} numbers", fix=_FIX)
        if node["target"] == "_operator.pow" and not _is_small(node["inputs"][1:]):
            raise LoadError(f"the exported program in {path} raises a number to a power it does not state", fix=_FIX)


_ENUMERATED = ("as_none", "as_scalar_type", "as_layout", "as_memory_format", "as_device")
_BOUNDS = ("slice", "slice_scatter", "narrow")  # their numbers are positions: the last one is written as 2**63 - 1


def _is_small(inputs: list[dict[str, Any]]) -> bool:
    return len(inputs) == 1 and 0 <= inputs[0]["arg"].get("as_int", -1) <= 4
