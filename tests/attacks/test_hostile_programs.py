"""Exported programs made to run code or to exhaust memory are refused; nothing of them runs."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import IMPORTING, Runs, rewrite

from actswap.errors import LoadError
from actswap.io.loading import load_model


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "ran"


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


def node(tree):
    return tree["graph_module"]["graph"]["nodes"][0]


def graph(tree):
    return tree["graph_module"]["graph"]


CALL = "__import__('os').mkdir('ran')"


def as_expression(text):
    return {"as_expr": {"expr_str": text, "hint": None}}


def named_like_a_key(key):
    """A tensor whose name is a key that an earlier check used to skip: its size was evaluated unseen."""

    def edit(tree):
        values = graph(tree)["tensor_values"]
        name = next(iter(values))
        values[key] = {**values[name], "sizes": [as_expression(CALL)]}

    return edit


EDITS = {
    **{f"a size of a tensor named {key}": named_like_a_key(key) for key in ("as_string", "as_strings", "metadata")},
    "an offset": lambda t: next(iter(graph(t)["tensor_values"].values())).update(storage_offset=as_expression(CALL)),
    "a power": lambda t: graph(t)["sym_int_values"].update(s=as_expression("Pow(9, Pow(9, 9))")),
    "a plain power": lambda t: graph(t)["sym_int_values"].update(s=as_expression("9**9**9")),
    "a symbol's name": lambda t: graph(t)["sym_int_values"].update(s=as_expression(f'Symbol("{CALL}")')),
    "a float": lambda t: graph(t)["sym_float_values"].update(f=as_expression(CALL)),
    "a condition": lambda t: graph(t)["sym_bool_values"].update(b=as_expression(CALL)),
    "a sum too deep": lambda t: graph(t)["sym_int_values"].update(s=as_expression("Add(" * 900 + "s0" + ")" * 900)),
    "an attribute": lambda t: graph(t)["sym_int_values"].update(s=as_expression("Symbol('s0').__class__")),
    "a guard": lambda t: t.update(guards_code=[f"L['input'].size()[0] == {CALL}"]),
    "a guard on an attribute": lambda t: t.update(guards_code=["L['input'].__class__ == 1"]),
    "a guard that never ends": lambda t: t.update(guards_code=["9**9**9**9 > 1"]),
    "a constant text": lambda t: graph(t)["inputs"].append({"as_string": "') or __import__('os').mkdir('ran') or ('"}),
    "a file": lambda t: node(t).update(target="torch.ops.aten.from_file.default"),
    "print": lambda t: node(t).update(target="torch.ops.aten._print.default"),
    "print, higher order": lambda t: node(t).update(target="torch.ops.higher_order.print"),
    "torchbind": lambda t: node(t).update(target="torch.ops.higher_order.call_torchbind"),
    "sparse": lambda t: node(t).update(target="torch.ops.aten._sparse_coo_tensor_unsafe.default"),
    "sparse csr": lambda t: node(t).update(target="torch.ops.aten._sparse_compressed_tensor_unsafe.default"),
    "set": lambda t: node(t).update(target="torch.ops.aten.set_.source_Storage_storage_offset"),
    "resize": lambda t: node(t).update(target="torch.ops.aten.resize_.default"),
    "strides": lambda t: node(t).update(target="torch.ops.aten.as_strided_.default"),
    "read file": lambda t: node(t).update(target="torch.ops.image.read_file.default"),
    "prim": lambda t: node(t).update(target="torch.ops.prim.device.default"),
    "an attribute of operators": lambda t: node(t).update(target="torch.ops.aten.__class__"),
    "operator as argument": lambda t: node(t)["inputs"][0].update(arg={"as_operator": "torch.load"}),
    "a packed sequence": lambda t: node(t).update(target="torch.ops.aten.lstm.data"),
    "a number for a dtype": lambda t: node(t).update(
        target="torch.ops.aten.to.dtype",
        inputs=[{"name": "dtype", "arg": {"as_int": 2**31}, "kind": 1}],
    ),
    "an object": lambda t: node(t)["inputs"][0].update(arg={"as_custom_obj": {"name": "a", "class_fqn": "b"}}),
    "a huge number": lambda t: node(t)["inputs"][0].update(arg={"as_int": 1 << 70}),
    "huge sizes": lambda t: node(t)["inputs"][0].update(arg={"as_ints": [1 << 20, 1 << 20]}),
    "two types at once": lambda t: node(t)["inputs"][0].update(arg={"as_int": 1, "as_float": 1.0}),
    "a list for a name": lambda t: node(t).update(name=["x"]),
    "an unknown key": lambda t: node(t).update(more=1),
    "an unknown key of the program": lambda t: t.update(more=1),
    "a key of Python": lambda t: node(t).update(__class__="x"),
    "a missing key": lambda t: node(t).pop("inputs"),
    "a name that is a statement": lambda t: node(t)["outputs"][0].update(as_tensor={"name": "x; import os"}),
    "a parameter in a method's place": lambda t: t["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
        parameter_name="forward"
    ),
    "a named tuple": lambda t: t["graph_module"]["treespec_namedtuple_fields"].update(x={"field_names": ["a"]}),
    "an unknown dtype": lambda t: next(iter(graph(t)["tensor_values"].values())).update(dtype=99),
    "a verifier": lambda t: t.update(verifiers=["../x"]),
    "a number for the program": lambda t: t.update(graph_module=3),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_programs_that_are_not_what_torch_writes(edit, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rewrite(exported, program(edit))
    with pytest.raises(LoadError, match=r"exported program|m\.pt2") as caught:
        load_model(exported)
    assert not (tmp_path / "ran").exists() and caught.value.fix


def config(edit):
    """Return a change of the list of weights by `edit(entry of the first weight)`."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("model_weights_config.json"):
            return data
        tree = json.loads(data)
        edit(next(iter(tree["config"].values())))
        return json.dumps(tree).encode()

    return change


WEIGHTS = {
    "pickled": lambda w: w.update(use_pickle=True),
    "elsewhere": lambda w: w.update(path_name="../../models/model.json"),
    "missing": lambda w: w.update(path_name="weight_99"),
    "larger": lambda w: w["tensor_meta"].update(sizes=[{"as_int": 10**6}], strides=[{"as_int": 1}]),
    "expanded": lambda w: w["tensor_meta"].update(sizes=[{"as_int": 10**6}] * 2, strides=[{"as_int": 0}] * 2),
    "evaluated": lambda w: w["tensor_meta"].update(sizes=[as_expression(CALL)]),
    "negative": lambda w: w["tensor_meta"].update(sizes=[{"as_int": -4}], strides=[{"as_int": 1}]),
    "offset": lambda w: w["tensor_meta"].update(storage_offset={"as_int": 10**9}),
}


@pytest.mark.parametrize("edit", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weights_of_a_program_that_lie(edit, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rewrite(exported, config(edit))
    with pytest.raises(LoadError):
        load_model(exported)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["two of one name", "compressed"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_program_archives_that_torch_never_writes(name, exported):
    with zipfile.ZipFile(exported, "a", zipfile.ZIP_DEFLATED) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        record = "models/model.json" if name == "two of one name" else "data/weights/weight_98"
        archive.writestr(f"{folder}/{record}", bytes(10**6))
    with pytest.raises(LoadError):
        load_model(exported)
