"""`actswap convert model.onnx`: the same job on a file's own graph."""

import numpy as np

from actswap.onnx.runtime import cpu_session


def test_a_file_is_converted_and_computes_what_it_did(folder, library_model, image, ask):
    assert ask("export", "m.pt", "--input", "x.npz", "-o", "m.onnx")[0] == 0
    code, data, _ = ask("convert", "m.onnx", "--to", "acon_c", "--tolerance", "1e-2")
    assert code == 0 and data["output"] == "m.acon_c.onnx" and len(data["report"]["replaced"]) == 2
    outputs = [cpu_session(folder / name).run(None, {"input": image.numpy()})[0] for name in ("m.onnx", data["output"])]
    # Each ACON is off by at most its bound. The first error passes the second convolution, whose rows of weights
    # sum to at most `gain`, and the second ACON, whose slope is at most 1.1; then both pass the last layer.
    first, second = (bound for *_, bound in data["report"]["replaced"])
    layers = (library_model[2], library_model[6])
    gain, last = (float(layer.weight.detach().abs().flatten(1).sum(1).max()) for layer in layers)
    rounding = 72 * 2**-23 * np.abs(outputs[0]).max()  # float32, sums of at most 72 products
    assert 0 < np.abs(outputs[0] - outputs[1]).max() <= last * (1.1 * gain * first + second) + rounding


def test_what_needs_a_module_is_refused_by_name(folder, ask):
    assert ask("export", "m.pt", "--input", "x.npz", "-o", "m.onnx")[0] == 0
    code, data, _ = ask("convert", "m.onnx", "--to", "acon_c", "--only", "1", "--start", "morph")
    assert code == 2 and "--only" in data["error"]["what"] and "--start" in data["error"]["what"]
    assert not (folder / "m.acon_c.onnx").exists()
