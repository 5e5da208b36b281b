"""`actswap revert`: the base bit for bit, as a module or as weights."""

import torch
from safetensors.torch import load_file


def test_a_module_and_its_weights(folder, library_model, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    code, data, _ = ask("revert", "m.acon_c")
    assert code == 0 and data["same_as_base"] is True and data["output"] == "m.acon_c.reverted.pt"
    code, data, _ = ask("revert", "m.acon_c", "-o", "weights.safetensors")
    assert code == 0
    weights = load_file("weights.safetensors")
    assert weights.keys() == library_model.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in library_model.state_dict().items())


def test_another_suffix_and_an_existing_file_are_refused(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    assert ask("revert", "m.acon_c", "-o", "back.onnx")[0] == 2
    assert ask("revert", "m.acon_c", "-o", "x.npz")[0] == 2
    assert not (folder / "back.onnx").exists()
