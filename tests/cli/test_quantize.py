"""`actswap quantize`: what became a table, and nothing beside the file."""

import numpy as np


def test_the_command(folder, ask, image):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    assert ask("export", "m.acon_c", "--input", "x.npz", "--no-simplify")[0] == 0
    np.savez(folder / "named.npz", input=image.numpy())
    before = {path.name for path in folder.iterdir()}
    command = ("quantize", "m.acon_c.onnx", "--calibration", "named.npz", "--per-channel", "-o", "q.onnx")
    code, data, _ = ask(*command)
    assert code == 0 and [made["site"] for made in data["report"]["tables"]] == ["1", "3"], data
    assert {path.name for path in folder.iterdir()} - before == {"q.onnx"}
    code, data, _ = ask(*command)
    assert code == 2 and "exists" in data["error"]["what"]
