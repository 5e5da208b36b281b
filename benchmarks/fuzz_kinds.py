"""The kinds of files that `fuzz_loaders.py` changes: valid examples, a mutation, and the loader of each.

Examples are as small as they can be: a loader that refuses early takes well under a millisecond. Some kinds enter a
loader behind its file system or zip layer, which other kinds go through: their inputs never leave memory.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import (
    Mutation,
    bytes_of,
    json_of,
    opcodes_of,
    safetensors_of,
    text_of,
    toml_of,
    tree_of,
    zip_of,
)
from recipe_toy import RECIPE
from safetensors.torch import save_file
from torch import nn

from actswap.conversion.pipeline import convert
from actswap.errors import LoadError
from actswap.inputs import read_file
from actswap.io import bundle, bundle_files, checkpoint, exported, expressions
from actswap.io.loading import load_model
from actswap.io.pickles import describe
from actswap.io.rebuild import Rebuild
from actswap.io.save_exported import save_pt2
from actswap.io.tensor_file import read_tensors
from actswap.recipe import read_recipe


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: how totals name it.
        mutate: changes the content of a valid one.
        examples: valid contents by file name.
        load: loads a changed content; the path is where it may be written.
    """

    name: str
    mutate: Mutation
    examples: dict[str, bytes]
    load: Callable[[bytes, Path], Any]

    @property
    def number(self) -> int:
        """A number that follows from the name, so that seeds stay the same when kinds are added."""
        return zlib.crc32(self.name.encode()) % 1000

    def input(self, dice: random.Random) -> tuple[str, bytes]:
        """Return the name of an example and its changed content."""
        name = dice.choice(sorted(self.examples))
        return name, self.mutate(self.examples[name], dice)


class WrongModel(AssertionError):
    """A changed file loaded as if it were whole, though its format promises to see the change."""


def network() -> nn.Module:
    """Return the network of the examples, without weights of its own."""
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()


def written(load: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    """Return a loader of contents that writes each to its path first."""

    def run(content: bytes, path: Path) -> Any:
        path.write_bytes(content)
        return load(path)

    return run


def kinds(folder: Path) -> list[Kind]:
    """Write valid files into a folder and return all kinds."""
    torch.manual_seed(0)
    model, x = network(), torch.randn(2, 2)
    converted = convert(model, "acon_c", x).model
    sys.modules["fuzz_factory"] = sys.modules[__name__]
    torch.save(model, folder / "module.pt")
    torch.save(converted, folder / "converted.pt")
    torch.save(model.state_dict(), folder / "weights.pt")
    torch.save(model.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "model": model.state_dict(), "lr": [0.1, None]}, folder / "checkpoint.pt")
    torch.save((x,), folder / "inputs.pt")
    np.savez(folder / "inputs.npz", x.numpy(), mask=np.ones(2, bool))
    np.save(folder / "inputs.npy", x.numpy())
    save_file(model.state_dict(), folder / "weights.safetensors")
    size = {0: torch.export.Dim("n", min=2, max=64)}
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=(size,)), folder / "plain.pt2")
    save_pt2(converted, folder / "converted.pt2", (x,))
    return [*_pickles(folder), *_programs(folder), *_bundles(folder, model, x), *_others(folder, converted, x)]


def _read(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def _record(folder: Path, record: str, *names: str) -> dict[str, bytes]:
    found = {}
    for name in names:
        with zipfile.ZipFile(folder / name) as archive:
            inside = next(n for n in archive.namelist() if n.endswith(record))
            found[name] = archive.read(inside)
    return found


def _pickles(folder: Path) -> list[Kind]:
    stored = {str(i): bytes(24) for i in range(12)}

    def whole(path: Path) -> None:
        load_model(path)

    def weights(path: Path) -> None:
        load_model(path, model="fuzz_factory:network")

    def storage(key: str) -> torch.UntypedStorage:
        return torch.frombuffer(bytearray(stored[key]), dtype=torch.uint8).untyped_storage()

    def opcodes(content: bytes, path: Path) -> None:
        described = describe(content)
        try:
            Rebuild(storage, len(content), ()).whole(described)
        except Exception as problem:  # load_model gives it in words
            raise LoadError("it cannot be built") from problem

    def inside(content: bytes, path: Path) -> None:
        checkpoint.check_weights(content)
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception as problem:  # load_model gives it in words
            raise LoadError("torch does not read it") from problem

    pickled = ("module.pt", "converted.pt", "weights.pt", "checkpoint.pt")
    return [
        Kind("pickle, opcodes", opcodes_of, _record(folder, "data.pkl", *pickled), opcodes),
        Kind("pickle, file", zip_of, _read(folder, "module.pt", "converted.pt"), written(whole)),
        Kind("pickle, bytes", bytes_of, _read(folder, "module.pt", "converted.pt"), written(whole)),
        Kind("weights, file", zip_of, _read(folder, "weights.pt", "checkpoint.pt"), written(weights)),
        Kind("weights inside a file", zip_of, _read(folder, "inputs.pt"), inside),
        Kind("weights before torch 1.6", bytes_of, _read(folder, "old.pt"), written(weights)),
        Kind("safetensors", safetensors_of, _read(folder, "weights.safetensors"), written(weights)),
    ]


SIZES = {
    "size": b"Add(Mul(Integer(2), Symbol('s0', positive=True, integer=True)), Integer(1), FloorDiv(Symbol('s1'), 3))",
    "max": b"Max(Integer(1), Min(Symbol('s0'), Symbol('s1')), Mod(Symbol('s2'), Integer(4)))",
    "condition": b"And(Eq(Symbol('s0'), Integer(4)), Lt(Symbol('s1'), Pow(Symbol('s0'), Integer(2))))",
}
GUARDS = {
    "guard": b"( L['x'] .size()[0] // 2 ) != 1 and not L['x'] .size()[1] < 4",
    "product": b"L['x'] .size()[0] * 3 + 2 == Max ( L['y'] .size()[0] , 7 ) % 5",
}


def _programs(folder: Path) -> list[Kind]:
    import sympy
    from torch._export.serde.schema import ExportedProgram
    from torch.utils._sympy import functions

    known = {name: getattr(functions, name) for name in dir(functions) if name[0].isupper()}

    def whole(path: Path) -> None:
        load_model(path)

    def tree(content: bytes, path: Path) -> None:
        program = exported._read_json(content, folder / "plain.pt2")
        exported._Walk("program").check(ExportedProgram, program, ("", ""), "")
        exported._check_numbers(program["graph_module"]["graph"], folder)

    def size(content: bytes, path: Path) -> None:
        text = content.decode()
        if not expressions.is_size(text):
            raise LoadError("it is no size")
        try:
            sympy.sympify(text, locals=known)
        except (ArithmeticError, AttributeError, TypeError, ValueError, AssertionError) as problem:
            raise LoadError("torch refuses it", why=str(problem)) from None

    def guard(content: bytes, path: Path) -> None:
        text = content.decode()
        if not expressions.is_guard(text):
            raise LoadError("it is no guard")
        compile(text, "guard", "eval")

    both = ("plain.pt2", "converted.pt2")
    return [
        Kind("exported program, file", zip_of, _read(folder, *both), written(whole)),
        Kind("exported program, JSON", json_of, _record(folder, "models/model.json", *both), tree),
        Kind("sizes in a program", text_of, SIZES, size),
        Kind("guards of a program", text_of, GUARDS, guard),
    ]


def _bundles(folder: Path, model: nn.Module, x: torch.Tensor) -> list[Kind]:
    from actswap.cli.main import run

    targets = ("acon_c", "pau", "swish")
    made = {name: bundle.save(convert(model, name, x).model, folder / f"b_{name}") for name in targets}
    before = {name: bundle.load(path, network()).state_dict() for name, path in made.items()}

    def load(path: Path) -> None:
        state = bundle.load(path, network()).state_dict()
        if any(not torch.equal(value, before[path.name][name]) for name, value in state.items()):
            raise WrongModel(path.name)
        if run(["show", str(path)]) not in (0, 3):
            raise WrongModel("show")

    def in_folder(file: str) -> Callable[[bytes, Path], None]:
        def put(content: bytes, path: Path) -> None:
            if not path.is_dir():
                shutil.copytree(made[path.name], path)
            (path / file).write_bytes(content)
            try:
                load(path)
            finally:
                shutil.copy(made[path.name] / file, path / file)

        return put

    plans = {name: (path / "plan.json").read_bytes() for name, path in made.items()}
    weights = {name: (path / "model.safetensors").read_bytes() for name, path in made.items()}

    def signed(content: bytes, path: Path) -> None:
        """Give a changed plan the right digest, as somebody who means harm does."""
        if not path.is_dir():
            shutil.copytree(made[path.name], path)
        document = json.loads(content)
        if isinstance(document, dict) and isinstance(document.get("plan"), dict):
            tensors, metadata = read_tensors(made[path.name] / "model.safetensors")
            document["pair"] = bundle_files.pair_of(document["plan"], tensors, {})
            save_file(tensors, path / "model.safetensors", {**metadata, "pair": document["pair"]})
        (path / "plan.json").write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))
        bundle.load(path, network())

    def inner(data: bytes, dice: random.Random) -> bytes:
        document = json.loads(data)
        for _ in range(dice.randint(1, 3)):
            document["plan"] = tree_of(document["plan"], dice)
        return json.dumps(document).encode("utf-8", "surrogatepass")

    return [
        Kind("bundle, plan", json_of, plans, in_folder("plan.json")),
        Kind("bundle, plan signed anew", inner, plans, signed),
        Kind("bundle, weights", safetensors_of, weights, in_folder("model.safetensors")),
    ]


def _others(folder: Path, converted: nn.Module, x: torch.Tensor) -> list[Kind]:
    from actswap.onnx.export import export_onnx

    export_onnx(converted, x, folder / "m.onnx")

    def recipe(path: Path) -> None:
        read_recipe(path, allow=("recipe_toy",))

    def session(path: Path) -> None:
        from actswap.onnx.sessions import session as opened

        opened(path, cache_folder=path.parent / "cache", prepared=False)

    def inputs(path: Path) -> None:
        read_file(str(path))

    def npy(data: bytes, dice: random.Random) -> bytes:
        return zip_of(data, dice) if data[:2] == b"PK" else bytes_of(data, dice)

    files = _read(folder, "inputs.pt", "inputs.npz", "inputs.npy")
    return [
        Kind("recipe", toml_of, {"recipe.toml": RECIPE.encode()}, written(recipe)),
        Kind("inputs", npy, files, written(inputs)),
        Kind("onnx", bytes_of, _read(folder, "m.onnx"), written(session)),
    ]
