"""`actswap export`: the file is checked in ONNX Runtime."""

from __future__ import annotations

import torch


def test_export_checks_the_file_in_onnx_runtime(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("export", "m.acon_c", "--input", "x.npz")
    assert code == 0 and max(p["relative"] for p in data["parity"]) <= 1e-4
    code, data, _ = ask("verify", "m.acon_c", "m.acon_c.onnx", "--input", "x.npz", "--tolerance", "1e-2")
    assert code == 0 and data["parity"]["rel_to_size"] <= 1e-4, "as export promises"
    code, data, _ = ask("export", "m.acon_c", "--input", "x.npz")
    assert code == 2 and "exists" in data["error"]["what"]


def test_a_program_that_needs_no_actswap(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("export", "m.acon_c", "--input", "x.npz", "--format", "pt2", "--decompose")
    assert code == 0 and data["decomposed"] and data["parity"]["rel"] <= 1e-4
    program = torch.export.load(folder / "m.acon_c.pt2")
    assert not any("actswap" in str(node.target) for node in program.graph.nodes)
    code, data, _ = ask("export", "m.acon_c", "--format", "pt2", "--half", "-o", "half.pt2")
    assert code == 2 and "--half" in data["error"]["what"]
    code, data, _ = ask("convert", "m.pt", "--to", "swish", "--decompose")
    assert code == 2 and "--format pt2" in data["error"]["fix"]


def test_sizes_are_fixed_when_asked_and_arguments_reach_forward(folder, ask):
    code, data, _ = ask("export", "m.pt", "--input", "x.npz", "--fixed-size", "--fixed-batch")
    assert code == 0 and all(isinstance(n, int) for shape in data["inputs"].values() for n in shape)
    code, data, _ = ask("export", "m.pt", "--input", "x.npz", "--kwarg", "use_cache=false", "-o", "n.onnx")
    assert code == 3 and "use_cache" in data["error"]["why"], "forward has no such argument"


def test_a_file_for_a_runtime_that_wants_sizes(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, said = ask(
        "export", "m.acon_c", "--input", "x.npz", "--for", "ncnn", "--batch", "1", "--size", "14,10", "--patience", "5"
    )
    assert code == 0 and data["inputs"] == {"input": [1, 3, 14, 10]} and "For ncnn" in said
    assert not any(name.startswith("actswap") for name in data["operators"]) and data["simplified"] == {}
    code, data, _ = ask("export", "m.acon_c", "--input", "x.npz", "--size", "big", "-o", "n.onnx")
    assert code == 2 and "--size 224,224" in data["error"]["fix"]


def test_a_runtime_that_reads_programs(folder, ask):
    code, data, _ = ask("export", "m.pt", "--input", "x.npz", "--for", "coreml")
    assert code == 0 and data["output"] == "m.pt2" and data["decomposed"]
