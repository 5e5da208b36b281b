"""`actswap convert model.onnx`: the same job on a file's own graph."""

import numpy as np

from actswap.onnx.runtime import cpu_session


def test_a_file_is_converted_and_computes_what_it_did(folder, image, ask):
    assert ask("export", "m.pt", "--input", "x.npz", "-o", "m.onnx")[0] == 0
    code, data, _ = ask("convert", "m.onnx", "--to", "acon_c", "--tolerance", "1e-2")
    assert code == 0 and data["output"] == "m.acon_c.onnx" and len(data["report"]["replaced"]) == 2
    outputs = [cpu_session(folder / name).run(None, {"input": image.numpy()})[0] for name in ("m.onnx", data["output"])]
    assert 0 < np.abs(outputs[0] - outputs[1]).max() <= 1e-2 * np.abs(outputs[0]).max()


def test_what_needs_a_module_is_refused_by_name(folder, ask):
    assert ask("export", "m.pt", "--input", "x.npz", "-o", "m.onnx")[0] == 0
    code, data, _ = ask("convert", "m.onnx", "--to", "acon_c", "--only", "1", "--start", "morph")
    assert code == 2 and "--only" in data["error"]["what"] and "--start" in data["error"]["what"]
    assert not (folder / "m.acon_c.onnx").exists()
