"""Pickles made to run code, to read elsewhere or to exhaust memory are refused; nothing of them runs."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hostile import ANY_CLASS, RELU, WIDE, Calls, Pickle, Runs, module_state, tensor
from torch import nn

from actswap.errors import LoadError
from actswap.io.loading import load_model


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


def test_a_file_written_by_hand_loads(tmp_path):
    """The hostile files below differ from this one by their attack alone."""
    inside = Pickle().new("torch.nn.modules.activation", "ReLU", module_state(inplace=False))
    made = Pickle().new("torch.nn.modules.container", "Sequential", module_state(_modules={"0": inside}))
    loaded = load_model(made.write(tmp_path / "m.pt")).module
    assert isinstance(loaded[0], nn.ReLU) and torch.equal(loaded(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


# Names that reach code through an allowed module, or are not the class's own name.
BORROWED = [
    ("torch.nn.modules.module", "torch._dynamo.eval_frame.OptimizedModule"),
    ("torch.nn.modules.module", "torch.os.mkdir"),
    ("torch.nn.modules.module", "functools.partial"),
    ("torch.nn.modules.module", "functools"),
    ("torch.nn.modules.module", "Module.apply"),
    ("torch.nn.modules.module", "OrderedDict"),
    ("torch.nn.modules.container", "Module"),
    ("torch.nn.modules.container", "__builtins__"),
    ("torchvision.models.resnet", "nn"),
    ("torch.nn.modules", "Linear"),
    ("torch._dynamo.eval_frame", "OptimizedModule"),
    ("torch.fx.graph_module", "GraphModule"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel"),
    ("timm.models", "create_model"),
    ("timm.models._builder", "load_pretrained"),
    ("transformers.models.bert.modeling_bert", "BertModel.from_pretrained"),
    ("torch.nn.modules.module os", "system"),
]
# What picklescan, fickling and torch's own unpickler name as dangerous, and gadgets of their test files.
DANGEROUS = """
builtins.eval builtins.exec builtins.compile builtins.open builtins.getattr builtins.__import__ builtins.breakpoint
os.system os.popen posix.system nt.system subprocess.Popen subprocess.run subprocess.check_output sys.exit
socket.socket runpy.run_path runpy._run_code pty.spawn webbrowser.open importlib.import_module
importlib.machinery.SourceFileLoader operator.attrgetter operator.methodcaller operator.itemgetter functools.reduce
types.CodeType types.FunctionType shutil.rmtree shutil.move tempfile.mktemp ctypes.CDLL code.InteractiveInterpreter
bdb.Bdb pdb.run timeit.timeit cProfile.run profile.run trace.Trace doctest.debug_script pydoc.pipepager pydoc.locate
idlelib.run.Executive ensurepip._run_pip pip.main venv.create zipimport.zipimporter pickle.loads pickle.Unpickler
marshal.loads shelve.open copyreg._reconstructor copyreg.__newobj__ torch.load torch.hub.load torch.ops.load_library
torch.jit.load torch.utils.model_zoo.load_url torch.utils.cpp_extension.load_inline
torch._inductor.codecache.compile_file torch.storage._load_from_bytes torch.distributed.rpc.api.rpc_sync
torch.multiprocessing.spawn torch.fx._symbolic_trace.Tracer torch.serialization.load
torch.package.package_importer.PackageImporter torch.utils.data.datapipes.utils.decoder.basichandlers
numpy.core.multiarray._reconstruct numpy.load numpy.testing._private.utils.runstring
numpy.f2py.crackfortran.getlincoef asyncio.unix_events._UnixSubprocessTransport urllib.request.urlopen
http.client.HTTPSConnection smtplib.SMTP logging.config.listen antigravity.fly this.s commands.getoutput
__builtin__.eval __builtin__.execfile
"""


@pytest.mark.parametrize("target", [*BORROWED, *(tuple(t.rsplit(".", 1)) for t in DANGEROUS.split())], ids=".".join)
@pytest.mark.parametrize("way", ["called", "made", "value", "state dict"])
def test_names_that_are_no_class_of_their_own_module(target, way, tmp_path):
    module, name = target
    made = {
        "called": Pickle().call(module, name, "x"),
        "made": Pickle().new(module, name, module_state()),
        "value": Pickle().new("torch.nn.modules.activation", "ReLU", module_state(kept=Pickle().name(module, name))),
        "state dict": Pickle().value({"a.weight": tensor((2, 2), (2, 1)), "b": Pickle().name(module, name)}),
    }[way]
    before = set(sys.modules)
    with pytest.raises(LoadError):
        load_model(made.write(tmp_path / "m.pt", {"0": bytes(16)}), model="factories:plain")
    assert {"antigravity", "pip", "idlelib.run", "this"}.isdisjoint(set(sys.modules) - before)


@pytest.mark.parametrize(
    "opcodes", [b"(ios\nmkdir\n", b"(cos\nmkdir\nX\x01\x00\x00\x00xo", b"\x82\x01", b"P1\n", b"I1\n"]
)
def test_opcodes_that_torch_never_writes(opcodes, tmp_path):
    with pytest.raises(LoadError, match="pickle"):
        load_model(Pickle().raw(opcodes).write(tmp_path / "m.pt"))


SHADOWS = {
    "forward": {"forward": RELU},
    "eval": {"eval": RELU},
    "train": {"train": 3},
    "children": {"children": ANY_CLASS},
    "a module in place of a method": {"eval": Pickle().new("torch.nn.modules.activation", "ReLU", module_state())},
    "compiled call": {"_compiled_call_impl": RELU},
    "call": {"__call__": RELU},
    "class": {"__class__": ANY_CLASS},
    "dict": {"__dict__": {}},
    "forward hook": {"_forward_hooks": {1: RELU}},
    "forward pre-hook": {"_forward_pre_hooks": {1: ANY_CLASS}},
    "load hook": {"_load_state_dict_pre_hooks": {1: RELU}},
    "state hook": {"_state_dict_hooks": {1: RELU}},
    "backward hook": {"_backward_hooks": {1: RELU}},
    "a partial of a constructor": {"f": Pickle().call("functools", "partial", ANY_CLASS)},
    "submodule that is a function": {"_modules": {"0": RELU}},
    "parameter that is a text": {"_parameters": {"weight": "x"}},
    "name with a dot": {"_modules": {"a.b": None}},
    "no parameters": {"_parameters": None},
    "no mode": {"training": "yes"},
    "fetched kernels": {"_attn_implementation": "someone/kernels"},
    "fetched kernels inside": {"_attn_implementation_internal": "someone/kernels:x"},
    "lazy hook": {"_initialize_hook": RELU, "forward": RELU},
}


@pytest.mark.parametrize("state", SHADOWS.values(), ids=SHADOWS.keys())
def test_states_that_change_what_a_module_does(state, tmp_path):
    made = Pickle().new("torch.nn.modules.activation", "ReLU", module_state(**state))
    with pytest.raises(LoadError):
        load_model(made.write(tmp_path / "m.pt"))


def partial_of(function: Pickle, args: object = (), options: object = None, attributes: object = None) -> Pickle:
    made = Pickle().name("functools", "partial").raw(b"(").value(function).raw(b"q\x07t").raw(b"R")
    return made.raw(b"(h\x07").value(args).value(options or {}).value(attributes).raw(b"tb")


PARTIALS = {
    "arguments": partial_of(ANY_CLASS, (10**9, 10**9)),
    "a huge option": partial_of(ANY_CLASS, (), {"in_features": 10**9}),
    "an option that is an object": partial_of(ANY_CLASS, (), {"device": Pickle().call("torch", "device", "meta")}),
    "attributes": partial_of(RELU, (), {}, {"a": 1}),
    "a function of the system": partial_of(Pickle().name("os", "mkdir"), ("ran",)),
    "a constructor of a model": partial_of(Pickle().name("timm.models.resnet", "ResNet")),
}


@pytest.mark.parametrize("made", PARTIALS.values(), ids=PARTIALS.keys())
def test_partials_that_hand_over_values(made, tmp_path):
    with pytest.raises(LoadError):
        load_model(Pickle().new("torch.nn.modules.activation", "ReLU", module_state(f=made)).write(tmp_path / "m.pt"))


def test_a_partial_of_a_norm_loads(tmp_path):
    made = partial_of(Pickle().name("torch.nn.modules.normalization", "LayerNorm"), (), {"eps": 1e-6})
    path = Pickle().new("torch.nn.modules.activation", "ReLU", module_state(norm=made)).write(tmp_path / "m.pt")
    assert load_model(path).module.norm(4).eps == 1e-6


@pytest.mark.parametrize("key", ["a list", "a set", "a module"])
def test_keys_that_python_cannot_hash(key, tmp_path):
    made = {
        "a list": Pickle().call("collections", "OrderedDict"),
        "a set": Pickle().call("builtins", "set", [1]),
        "a module": Pickle().new("torch.nn.modules.activation", "ReLU", module_state(inplace=False)),
    }[key]
    kept = Pickle().raw(b"}").value(made).value(1).raw(b"s")
    with pytest.raises(LoadError, match="key"):
        load_model(
            Pickle().new("torch.nn.modules.activation", "ReLU", module_state(kept=kept)).write(tmp_path / "m.pt")
        )


def test_what_is_no_file(tmp_path, capsys):
    """Opening a pipe waits for somebody who writes into it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for wrong in (pipe, "/dev/zero"):
        with pytest.raises(LoadError, match="no file"):
            load_model(wrong)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["two of one name", "compressed", "overlapping", "another record", "two folders"])
def test_zip_files_that_two_readers_see_differently(kind, mark, tmp_path):
    path = Pickle().value({"w": tensor((4,), (1,))}).write(tmp_path / "m.pt", WIDE)
    if kind == "overlapping":
        records = [
            ("m/data.pkl", b"\x80\x02}."),
            ("m/version", b"3\n"),
            *((f"m/data/{i}", bytes(4096)) for i in range(9)),
        ]
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in records:
                archive.writestr(name, data)
            first = archive.getinfo("m/data/0")
            for i in range(1, 9):
                archive.getinfo(f"m/data/{i}").header_offset = first.header_offset
            archive.fp.truncate(archive.getinfo("m/data/0").header_offset + 4200)  # type: ignore[union-attr]
            archive.start_dir = archive.fp.seek(0, 2)  # type: ignore[union-attr]
    else:
        with zipfile.ZipFile(
            path, "a", zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
        ) as archive:
            name = {"two of one name": "m/data.pkl", "another record": "m/code/x.py", "two folders": "n/data.pkl"}
            archive.writestr(name.get(kind, "m/data/7"), pickle.dumps(Runs(mark)) + bytes(10**6))
    with pytest.raises(LoadError):
        load_model(path, model="factories:plain")
    assert not mark.exists()


def test_what_libraries_add_to_torchs_safe_globals_does_not_count(tmp_path):
    """The state-dict way trusts nothing that another library told torch to trust."""
    path = Pickle().value({"w": Pickle().call("os", "mkdir", str(tmp_path / "ran"))}).write(tmp_path / "m.pt")
    added = [(os.mkdir, "os.mkdir"), (nn.Linear, "torch.nn.modules.linear.Linear")]
    with torch.serialization.safe_globals(added), pytest.raises(LoadError):
        load_model(path, model="factories:plain")
    assert not (tmp_path / "ran").exists()
