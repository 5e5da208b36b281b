"""Files made to run code, to read elsewhere or to exhaust memory are refused; nothing of them runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from actswap.conversion.pipeline import convert
from actswap.errors import ActswapError, LoadError
from actswap.io import bundle
from actswap.io.loading import load_model


class Runs:
    """Pickles to a call of `os.mkdir`: harmless, and seen where it happened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class Calls:
    """Pickles to a call of any function with any arguments."""

    def __init__(self, function, *args) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "ran"


def test_a_pickle_that_would_run_code_does_not(mark, tmp_path):
    torch.save({"weights": Runs(mark)}, tmp_path / "m.pt")
    with pytest.raises(LoadError, match="mkdir"):
        load_model(tmp_path / "m.pt")
    assert not mark.exists()
    with pytest.raises(LoadError):  # allowing a package allows its classes, not its functions
        load_model(tmp_path / "m.pt", allow=["posix", "os"])
    assert not mark.exists()


def test_the_attack_works_where_it_is_trusted(mark, tmp_path):
    """The test above would pass for a file that does nothing: this shows that the file does something."""
    torch.save({"weights": Runs(mark)}, tmp_path / "m.pt")
    with pytest.raises(LoadError):
        load_model(tmp_path / "m.pt", trust_pickle=True)
    assert mark.exists()


def test_code_behind_a_module_does_not_run(library_model, mark, tmp_path):
    library_model.extra = Runs(mark)
    torch.save(library_model, tmp_path / "m.pt")
    with pytest.raises(LoadError):
        load_model(tmp_path / "m.pt")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_raw_pickle_does_not_run(protocol, mark, tmp_path):
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Runs(mark), protocol=protocol))
    with pytest.raises(LoadError):
        load_model(tmp_path / "m.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    "call",
    [
        Calls(nn.Linear, 4, 4),  # a constructor of an allowed class, with values of the file
        Calls(torch.hub.load, "a/b", "c"),
        Calls(getattr, "x", "y"),
        Calls(eval, "1"),
        Calls(torch.load, "x"),
        Calls(__import__, "os"),
    ],
    ids=lambda c: c.function.__name__,
)
def test_calls_are_refused(call, tmp_path):
    torch.save({"weights": call}, tmp_path / "m.pt")
    with pytest.raises(LoadError):
        load_model(tmp_path / "m.pt")


def test_a_graph_module_carries_program_text_and_is_refused(library_model, tmp_path):
    torch.save(torch.fx.symbolic_trace(library_model), tmp_path / "m.pt")
    with pytest.raises(LoadError):
        load_model(tmp_path / "m.pt")


# A serialised tree whose reading imports a module of the file's choice.
FACTORY = {"default_factory_module": "antigravity", "default_factory_name": "fly", "dict_context": []}
DICT = {"type": "collections.defaultdict", "context": json.dumps(FACTORY), "children_spec": []}
IMPORTING = json.dumps([1, DICT])


def rewrite(path: Path, change) -> None:
    """Rewrite the records of an exported program; `change` gets (name, bytes) and returns bytes or None."""
    with zipfile.ZipFile(path) as old:
        records = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, data in records:
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)


@pytest.fixture
def exported(library_model, image, tmp_path) -> Path:
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(library_model, (image,)), path)
    return path


def program(edit):
    """Return a change of models/model.json by `edit(dict)`."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        tree = json.loads(data)
        edit(tree)
        return json.dumps(tree).encode()

    return change


def test_an_untouched_rewrite_still_loads(exported):
    rewrite(exported, program(lambda tree: None))
    assert load_model(exported).kind == "exported"


@pytest.mark.parametrize(
    "target", ["torch.load", "torch.hub.load", "torch.ops.load_library", "math.__loader__.x", "#evil"]
)
def test_program_targets_outside_the_operators(target, exported):
    rewrite(exported, program(lambda tree: tree["graph_module"]["graph"]["nodes"][0].update(target=target)))
    with pytest.raises(LoadError, match="target"):
        load_model(exported)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('ran')",
        "exec(chr(49))",
        "(lambda: 1)()",
        "[c for c in (1,)]",
        "Max('__import__(1)', 2)",
        "s0.__class__",
        "open('x')",
    ],
)
def test_program_expressions_that_are_no_arithmetic(text, exported):
    def edit(tree):
        tree["guards_code"] = [text]

    rewrite(exported, program(edit))
    with pytest.raises(LoadError, match="guards_code"):
        load_model(exported)

    def edit_size(tree):
        tree["guards_code"] = []
        sizes = tree["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}

    rewrite(exported, program(edit_size))
    with pytest.raises(LoadError, match="expr_str"):
        load_model(exported)


def test_program_tree_types_that_import_modules(exported):
    def edit(tree):
        spec = IMPORTING
        tree["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec

    rewrite(exported, program(edit))
    with pytest.raises(LoadError, match="in_spec"):
        load_model(exported)


def test_program_pickles_and_libraries(exported, mark):
    buffer = io.BytesIO()
    torch.save(Runs(mark), buffer)
    rewrite(exported, lambda name, data: buffer.getvalue() if name.endswith("sample_inputs/model.pt") else data)
    with pytest.raises(LoadError, match="mkdir"):
        load_model(exported)
    assert not mark.exists()


@pytest.mark.parametrize(
    "record", ["data/aotinductor/model/x.so", "data/weights/model.pt", "data/constants/custom_obj_0"]
)
def test_program_records_that_are_not_loaded(record, exported):
    with zipfile.ZipFile(exported, "a") as archive:
        archive.writestr(f"m/{record}", b"x")
    with pytest.raises(LoadError, match=Path(record).name):
        load_model(exported)


@pytest.fixture
def saved(small, image, tmp_path) -> Path:
    return bundle.save(convert(small, "acon_c", image).model, tmp_path / "out")


def edit_plan(folder: Path, edit) -> None:
    document = json.loads((folder / "plan.json").read_text())
    edit(document)
    (folder / "plan.json").write_text(json.dumps(document))


@pytest.mark.parametrize("name", ["../secret.pt", "/etc/passwd", "a/b.pt", "..", "", "a\\b"])
def test_a_base_elsewhere(name, saved, small):
    edit_plan(saved, lambda d: d["base"].update(file=name))
    with pytest.raises(LoadError, match="base"):
        bundle.read_base(saved)


def choice(document):
    return document["plan"]["choices"][0]


EDITS = {
    "huge channels": lambda d: choice(d)["site"].update(channels=10**12),
    "negative channels": lambda d: choice(d)["site"].update(channels=-1),
    "text channels": lambda d: choice(d)["site"].update(channels="8"),
    "huge option": lambda d: choice(d)["options"].update(degrees=[10**9, 10**9]),
    "unknown schema": lambda d: d.update(schema=99),
    "schema true": lambda d: d.update(schema=True),
    "schema of the plan": lambda d: d["plan"].update(schema=99),
    "plan is a list": lambda d: d.update(plan=[]),
    "choices is a number": lambda d: d["plan"].update(choices=3),
    "choice is a text": lambda d: d["plan"].update(choices=["x"]),
    "no site": lambda d: choice(d).pop("site"),
    "unknown target": lambda d: choice(d).update(target="os.system"),
    "path outside": lambda d: choice(d).update(path="__class__.__init__"),
    "path of a weight": lambda d: choice(d).update(path="stem.weight"),
    "deep path": lambda d: choice(d).update(path="a." * 5000 + "b"),
    "unknown option": lambda d: choice(d)["options"].update(evil=1),
    "start of another kind": lambda d: choice(d)["start"].update(params={"weight": 1.0}),
    "pair": lambda d: d.update(pair="other"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_plans_that_lie(edit, saved, small):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    edit_plan(saved, edit)
    with pytest.raises(ActswapError):
        bundle.load(saved, small)
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())


def test_tree_types_in_a_plan_that_import_modules(saved, small):
    def edit(document):
        for island in document["plan"]["islands"]:
            for call in island["calls"]:
                call["spec"] = IMPORTING

    edit_plan(saved, edit)
    with pytest.raises(LoadError, match="tree"):
        bundle.load(saved, small)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 1}', "[" * 100_000, '{"schema": 1e999, "plan": {}}']
)
def test_plans_that_are_no_json_of_ours(text, saved, small):
    (saved / "plan.json").write_text(text)
    with pytest.raises(LoadError):
        bundle.load(saved, small)


def test_a_plan_too_large_to_read(saved, small, monkeypatch):
    monkeypatch.setattr(bundle, "_LARGEST_PLAN", 10)
    with pytest.raises(LoadError, match="larger"):
        bundle.load(saved, small)


def test_weights_that_lie(saved, small):
    file = saved / "model.safetensors"
    good = file.read_bytes()
    (length,) = struct.unpack("<Q", good[:8])
    for bad in (
        b"",
        good[:4],
        good[: length // 2],
        good[:-7],
        struct.pack("<Q", 1 << 60) + good[8:],
        good[:8] + b"[" + good[9:],
    ):
        file.write_bytes(bad)
        with pytest.raises(LoadError):
            bundle.load(saved, small)


def test_weights_of_another_model(saved, small):
    tensors, metadata = bundle._read_tensors(saved / "model.safetensors")
    tensors["stem.weight"] = torch.zeros(8, 3, 5, 5)
    tensors["more"] = torch.zeros(1)
    del tensors["head.bias"]
    save_file(tensors, saved / "model.safetensors", {**metadata, "alias": "{}"})
    with pytest.raises(LoadError, match=r"missing head.bias; unknown more; stem.weight is \(8, 3, 5, 5\)"):
        bundle.load(saved, small)


@pytest.mark.parametrize("alias", ['{"a": "gone"}', "[1]", "{", '{"a": 3}'])
def test_aliases_that_lead_nowhere(alias, saved, small):
    tensors, metadata = bundle._read_tensors(saved / "model.safetensors")
    save_file(tensors, saved / "model.safetensors", {**metadata, "alias": alias})
    with pytest.raises(LoadError):
        bundle.load(saved, small)
