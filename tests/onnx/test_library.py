"""The library is registered once with the same options, whoever registers it; and which operators it has."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
from onnx_cases import cases

import actswap
from actswap.onnx.functions import has_kernel
from actswap.onnx.library import library_path, register


def options() -> ort.SessionOptions:
    made = ort.SessionOptions()
    made.log_severity_level = 3
    return made


@pytest.mark.parametrize("by_user", [False, True])
def test_options_serve_several_sessions(by_user: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(next(case for case in cases(False) if case.name == "meta_acon").model(4, 1).SerializeToString())
    shared = options()
    if by_user:
        shared.register_custom_ops_library(library_path())
    ways = [actswap.onnx.session(path, shared, prepared=False).actswap_way for _ in range(3)]
    assert ways == ["native"] * 3


def test_looking_whether_the_library_is_registered_writes_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = options()
    mine.enable_profiling, mine.optimized_model_filepath = True, str(tmp_path / "mine.onnx")
    assert register(mine) == ""
    assert list(tmp_path.iterdir()) == []
    assert mine.enable_profiling and mine.optimized_model_filepath == str(tmp_path / "mine.onnx")


def test_every_exported_operator_has_a_kernel() -> None:
    """The library's table and `has_kernel` agree: a node without a body opens only if there is a kernel."""
    for shared in (False, True):
        for case in cases(shared):
            model = case.model(4, 1)
            (node,) = [n for n in model.graph.node if n.domain == "actswap"]
            del model.functions[:]
            mine = options()
            register(mine)
            try:
                ort.InferenceSession(model.SerializeToString(), mine, providers=["CPUExecutionProvider"])
                opens = True
            except Exception:
                opens = False
            assert opens == has_kernel(node.op_type), node.op_type
