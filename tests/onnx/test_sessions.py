"""session(): the three ways compute the same, and bad files, caches and libraries end in a clear message."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from exported_nets import act
from onnx_cases import C, cases
from saved_earlier import SAVED, input_and_output
from torch import Tensor, nn

import actswap.onnx
from actswap.errors import ExportError, LoadError
from actswap.onnx import cache, machine
from actswap.onnx.export import export_onnx
from actswap.onnx.library import find_library
from actswap.onnx.prepare import prepare, prepare_file
from actswap.onnx.runtime import quiet_options
from actswap.onnx.sessions import session

needs_library = pytest.mark.skipif(find_library() is None, reason="the ONNX Runtime library was not built")


class Net(nn.Module):
    """Convolutions whose width fills no block, with every activation between them."""

    def __init__(self, labels: list[str]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(C if k else 3, C, 3, padding=1) for k in range(len(labels)))
        self.acts = nn.ModuleList(act(label, shared=k % 3 == 2) for k, label in enumerate(labels))
        self.head = nn.Conv2d(C, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv, activation in zip(self.convs, self.acts, strict=True):
            x = x + activation(conv(x)).tanh() if x.shape[1] == C else activation(conv(x)).tanh()
        return self.head(x)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    torch.manual_seed(2)
    model, x = Net([case.label for case in cases(False)]).eval(), torch.randn(2, 3, 9, 13)
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    export_onnx(model, x, path)
    with torch.no_grad():
        return path, x.numpy(), model(x).numpy()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTSWAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ACTSWAP_ORT_LIBRARY", "/nonexistent/libactswap_ort.so")
    machine.machine_key.cache_clear()
    yield
    machine.machine_key.cache_clear()


def error(found: object, x: np.ndarray, want: np.ndarray) -> float:
    got = found.run(None, {"x": x})[0]
    return float(np.abs(got - want).max() / np.abs(want).max())


Exported = tuple[Path, np.ndarray, np.ndarray]


@needs_library
def test_prepared_native_and_portable_agree_with_pytorch(exported: Exported) -> None:
    path, x, want = exported
    first, second = session(path), session(path)
    assert (first.actswap_way, second.actswap_way) == ("prepared", "prepared")
    native = session(path, prepared=False)
    assert native.actswap_way == "native"
    for found in (first, second, native):
        assert error(found, x, want) <= 1e-4
        assert found.run(None, {"x": x[:0]})[0].shape[0] == 0


@needs_library
def test_every_activation_between_convolutions_stays_blocked(exported: Exported) -> None:
    found = prepare(onnx.load(exported[0]))
    assert found.blocked == found.activations == len(list(cases(False)))
    assert not [node for node in found.model.graph.node if node.op_type == "ReorderInput"]


def test_without_the_library_the_bodies_run(exported: Exported, no_library: None) -> None:
    path, x, want = exported
    found = session(path)
    assert found.actswap_way == "portable" and "libactswap_ort.so" in found.actswap_notes[0]
    assert error(found, x, want) <= 1e-4
    assert actswap.onnx.library_path() == "/nonexistent/libactswap_ort.so"


def test_a_library_that_was_not_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actswap.onnx.library.find_library", lambda: None)
    with pytest.raises(ExportError, match=r"library of actswap is not there"):
        actswap.onnx.library_path()


@needs_library
def test_damaged_cache_entries_are_made_anew(exported: Exported, tmp_path: Path) -> None:
    path, x, want = exported
    session(path)
    (entry,) = (tmp_path / "cache").glob("*.prepared")
    whole = entry.read_bytes()
    for damaged in (b"", whole[:20], whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        entry.write_bytes(damaged)
        found = session(path)
        assert found.actswap_way == "prepared" and error(found, x, want) <= 1e-4
        assert cache.read(entry.stem, entry.parent) is not None


@needs_library
def test_a_cache_that_cannot_be_written_is_said(exported: Exported, tmp_path: Path) -> None:
    path, x, want = exported
    (tmp_path / "file").write_text("")
    found = session(path, cache_folder=tmp_path / "file")
    assert found.actswap_way == "prepared" and "cannot be written" in found.actswap_notes[0]
    assert error(found, x, want) <= 1e-4


_STORE = """
import pathlib, sys
from actswap.onnx import cache
folder, letter = pathlib.Path(sys.argv[1]), sys.argv[2].encode()
for k in range(50):
    assert cache.write("k", letter * (1000 + k), folder) == ""
    body = cache.read("k", folder)
    assert body is not None and len(set(body)) == 1
"""


def test_processes_share_the_cache(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", _STORE, str(tmp_path), letter]) for letter in "ab"]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["k.prepared"]


@needs_library
def test_a_file_for_this_machine_opens_here_and_nowhere_else(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, x, want = exported
    prepare_file(path, tmp_path / "here.onnx")
    found = session(tmp_path / "here.onnx")
    assert found.actswap_way == "prepared" and error(found, x, want) <= 1e-4
    monkeypatch.setattr("actswap.onnx.machine.machine_key", lambda: "another machine")
    with pytest.raises(LoadError, match="prepared for another machine"):
        session(tmp_path / "here.onnx")


def test_bad_files(exported: Exported, tmp_path: Path) -> None:
    whole = exported[0].read_bytes()
    with pytest.raises(LoadError, match="there is no file"):
        session(tmp_path / "none.onnx")
    for name, data in {"empty": b"", "cut": whole[: len(whole) // 3], "text": b"PK\x03\x04 not a model"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(LoadError) as caught:
            session(tmp_path / name)
        assert caught.value.exit_code == 3


def test_external_data_that_is_missing(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported[0])
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    assert error(session(tmp_path / "m.onnx"), *exported[1:]) <= 1e-4
    (tmp_path / "m.data").unlink()
    with pytest.raises(LoadError, match=r"weights are missing"):
        session(tmp_path / "m.onnx")


def test_foreign_files_open_plainly_and_newer_domains_are_refused(exported: Exported, tmp_path: Path) -> None:
    export_onnx(nn.Linear(3, 2), torch.randn(2, 3), tmp_path / "plain.onnx")
    found = session(tmp_path / "plain.onnx")
    assert found.actswap_way == "portable" and found.actswap_notes == ()
    model = onnx.load(exported[0])
    next(entry for entry in model.opset_import if entry.domain == "actswap").version = 9
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(LoadError, match="version 9 of domain actswap"):
        session(tmp_path / "newer.onnx")


@needs_library
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: folder.name)
def test_files_of_earlier_versions_run(folder, prepared, tmp_path):
    x, y, rounding = input_and_output(folder)
    opened = session(folder / "model.onnx", cache_folder=tmp_path, prepared=prepared)
    assert opened.actswap_way == ("prepared" if prepared else "native")
    (computed,) = opened.run(None, {opened.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(computed, y.numpy(), rtol=0, atol=rounding)


def test_a_model_in_memory_is_prepared_like_a_file(exported: Exported) -> None:
    path, x, want = exported
    data = path.read_bytes()
    for given in (data, onnx.load_from_string(data)):
        found = session(given)
        assert found.actswap_way == "prepared" and error(found, x, want) < 1e-4


def test_a_prefix_before_the_operators_is_said_and_changes_nothing(exported: Exported) -> None:
    path, x, want = exported
    found = session(onnx.compose.add_prefix(onnx.load(path), "net/"))
    assert found.actswap_way == "portable" and "was a prefix added?" in found.actswap_notes[0]
    assert np.abs(found.run(None, {found.get_inputs()[0].name: x})[0] - want).max() < 1e-4 * np.abs(want).max()


def test_the_runtimes_own_format(exported: Exported, tmp_path: Path) -> None:
    path, x, want = exported
    options = quiet_options()
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert error(session(tmp_path / "m.ort"), x, want) < 1e-4
