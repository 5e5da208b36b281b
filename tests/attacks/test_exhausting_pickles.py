"""Pickles made to exhaust memory or time are refused before they take it."""

from __future__ import annotations

import contextlib
import pickle

import pytest
import torch
from hostile import ANY_CLASS, RELU, WIDE, Pickle, module_state, storage, tensor
from torch import nn

from actswap.errors import LoadError
from actswap.io.loading import load_model

LARGE = {
    "bytearray": Pickle().call("builtins", "bytearray", 10**12),
    "storage call": Pickle().call("torch", "FloatStorage", 10**12),
    "tensor call": Pickle().call("torch", "FloatTensor", 10**6, 10**6),
    "new tensor": Pickle().name("torch", "Tensor").value((10**6, 10**6)).raw(b"\x81"),
    "expanded": tensor((10**6, 10**6), (0, 0)),
    "beyond the storage": tensor((5,), (1,)),
    "offset": tensor((1,), (1,), offset=4),
    "negative offset": tensor((1,), (1,), offset=-1),
    "negative size": tensor((-1,), (1,)),
    "negative stride": tensor((4,), (-1,)),
    "sizes and strides of other lengths": tensor((4,), (1, 1)),
    "a size that is no number": tensor(("x",), (1,)),  # type: ignore[arg-type]
    "a storage that is larger": tensor((2,), (1,), stored=storage(numel=10**11)),
    "a storage that is missing": tensor((2,), (1,), stored=storage(key="1")),
    "a storage outside": tensor((2,), (1,), stored=storage(key="../version")),
    "a storage of no class": tensor((2,), (1,), stored=storage(kind="load")),
    "a huge number": Pickle().value(1 << 4000),
    "a nested key": Pickle().raw(b"}").value(((((1,),),),)).value(1).raw(b"s"),
    "counter": Pickle().call("collections", "Counter", 3),
    "wrapper": Pickle().call("torch._utils", "_rebuild_wrapper_subclass", 1),
    "numpy": Pickle().call("torch._utils", "_rebuild_device_tensor_from_numpy", 1),
    "sparse": Pickle().call("torch._utils", "_rebuild_sparse_tensor", 1),
    "meta": Pickle().call("torch._utils", "_rebuild_meta_tensor_no_storage", 1),
    "tensor that shadows": Pickle().call(
        "torch._tensor", "_rebuild_from_type_v2",
        Pickle().name("torch._utils", "_rebuild_tensor_v2"), Pickle().name("torch", "Tensor"),
        (storage(), 0, (2,), (1,), False, {}), {"data": RELU},
    ),
    "tensor of another class": Pickle().call(
        "torch._tensor", "_rebuild_from_type_v2",
        Pickle().name("torch._utils", "_rebuild_tensor_v2"), ANY_CLASS, (storage(), 0, (2,), (1,), False, {}), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("made", LARGE.values(), ids=LARGE.keys())
@pytest.mark.parametrize("way", ["state dict", "module"])
def test_weights_that_take_what_the_file_does_not_hold(made, way, tmp_path):
    wrapped = Pickle().value({"w": made})
    if way == "module":
        wrapped = Pickle().new("torch.nn.modules.activation", "ReLU", module_state(kept=made))
    with pytest.raises(LoadError):
        load_model(wrapped.write(tmp_path / "m.pt", WIDE), model="factories:plain")


def test_deep_nesting_and_shared_tuples(tmp_path):
    deep = Pickle().raw(b"]" * 5000 + b"a" * 4999)
    shared = Pickle().raw(b")q\x00" + b"h\x00h\x00\x86q\x00" * 60)  # 2**60 leaves, were they ever counted
    for made in (deep, shared):
        made = Pickle().new("torch.nn.modules.activation", "ReLU", module_state(kept=made))
        with contextlib.suppress(LoadError):
            load_model(made.write(tmp_path / "m.pt"))


BOMBS = {
    "empty sets": b"(" + b"\x8f" * 3_000_000 + b"t",
    "empty dictionaries": b"(" + b"}" * 3_000_000 + b"t",
    "instances": b"(ccollections\nOrderedDict\nq\x00)q\x01" + b"h\x00h\x01\x81" * 500_000 + b"t",
    "memo": b"N" + b"".join(b"r" + i.to_bytes(4, "little") for i in range(900_000)),
}


@pytest.mark.parametrize("opcodes", BOMBS.values(), ids=BOMBS.keys())
def test_objects_that_take_a_hundred_times_their_opcodes(opcodes, tmp_path):
    """A file of three megabytes would take half a gigabyte."""
    for made in (Pickle().raw(opcodes), Pickle().value({"w": Pickle().raw(opcodes)})):
        with pytest.raises(LoadError, match="memory"):
            load_model(made.write(tmp_path / "m.pt"), model="factories:plain")


@pytest.mark.parametrize("opcode", [b"X\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 7 + b"\x3f", b"B\xff\xff\xff\x7f"])
def test_an_old_file_with_a_text_longer_than_itself(opcode, tmp_path):
    """Reading a text of 2**62 bytes from an open file raised MemoryError."""
    header = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    (tmp_path / "old.pt").write_bytes(b"".join(header) + b"\x80\x04" + opcode + b"x")
    with pytest.raises(LoadError):
        load_model(tmp_path / "old.pt", model="factories:plain")


RECURRENT = {
    "a billion layers": {"num_layers": 10**9, "_all_weights": [[0]]},
    "no number of layers": {"num_layers": "x", "_all_weights": [["weight_ih_l0"]]},
    "weights that are methods": {"num_layers": 1, "_flat_weights_names": ["forward"]},
}


@pytest.mark.parametrize("change", RECURRENT.values(), ids=RECURRENT.keys())
def test_layers_that_a_reviewed_method_would_count_forever(change, tmp_path):
    layer, path = nn.GRU(2, 2), tmp_path / "m.pt"
    torch.save(layer, path)
    assert load_model(path).module.num_layers == 1
    vars(layer).update(change)
    torch.save(layer, path)
    with pytest.raises(LoadError, match="layers"):
        load_model(path)


def test_a_module_inside_itself(tmp_path):
    for made in (sequential(1, kept(1)), sequential(1, sequential(2, kept(1)), kept(2))):
        with pytest.raises(LoadError, match="inside themselves"):
            load_model(made.write(tmp_path / "m.pt"))


def test_modules_shared_in_more_ways_than_can_be_walked(tmp_path):
    """`model.eval()` walks each path to a module: 2**30 of them would take hours."""
    made = sequential(0)
    for i in range(1, 60, 2):
        made = sequential(i, made, sequential(i + 1, kept(max(i - 2, 0))))
    path = made.write(tmp_path / "m.pt")
    with pytest.raises(LoadError, match="shared"):
        load_model(path)
    path = sequential(1, sequential(2), kept(2), sequential(3, kept(2))).write(path)  # a layer may be used three times
    assert len(load_model(path).module) == 3


def test_modules_without_arguments_take_no_memory(tmp_path):
    """Empty modules used to be constructed: `nn.Transformer()` alone takes 170 MB."""
    children = {str(i): Pickle().call("torch.nn.modules.transformer", "Transformer") for i in range(20)}
    made = Pickle().new("torch.nn.modules.container", "Sequential", module_state(_modules=children))
    with pytest.raises(LoadError, match="constructor"):
        load_model(made.write(tmp_path / "m.pt"))


def test_an_old_file_whose_tensors_are_larger_than_it(tmp_path):
    stored = Pickle().raw(b"(").value("storage").name("torch", "FloatStorage").value("1").value("cpu").value(10**11)
    described = Pickle().value({"w": tensor((2,), (1,), stored=stored.value(None).raw(b"tQ"))})
    header = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path = tmp_path / "old.pt"
    path.write_bytes(b"".join(header) + described.data + b"." + pickle.dumps(["1"], protocol=2) + bytes(64))
    with pytest.raises(LoadError):
        load_model(path, model="factories:plain")


def kept(index: int) -> Pickle:
    return Pickle().raw(b"j" + index.to_bytes(4, "little"))


def sequential(index: int, *children: Pickle) -> Pickle:
    """Push a Sequential and store it in the memo."""
    made = Pickle().name("torch.nn.modules.container", "Sequential").raw(b")\x81r" + index.to_bytes(4, "little"))
    state = module_state(_modules={str(i): child for i, child in enumerate(children)})
    return made.value(state).raw(b"b")
