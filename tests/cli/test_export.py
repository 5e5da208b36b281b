"""`actswap export`: the file is checked in ONNX Runtime."""

from __future__ import annotations


def test_export_checks_the_file_in_onnx_runtime(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("export", "m.acon_c", "--input", "x.npz")
    assert code == 0 and max(p["relative"] for p in data["parity"]) <= 1e-4
    code, data, _ = ask("verify", "m.acon_c", "m.acon_c.onnx", "--input", "x.npz", "--tolerance", "1e-2")
    assert code == 0 and data["parity"]["rel_to_size"] <= 1e-4, "as export promises"
    code, data, _ = ask("export", "m.acon_c", "--input", "x.npz")
    assert code == 2 and "exists" in data["error"]["what"]
