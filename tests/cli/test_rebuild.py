"""`actswap rebuild`: a toolkit's checkpoint becomes a bundle, and the answer tells what the training changed."""

from __future__ import annotations

import torch

from actswap.io.loading import load_model


def test_a_checkpoint_becomes_a_bundle(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    model = load_model("m.acon_c").module
    model[1].p1.data += 0.5
    torch.save({"state_dict": {f"model.{name}": t for name, t in model.state_dict().items()}}, "last.ckpt")
    code, data, err = ask("rebuild", "last.ckpt", "--bundle", "m.acon_c")
    assert code == 0 and data["output"] == "last.ckpt.bundle"
    assert data["changed"] == ["1"] and data["activations"] == ["1", "3"] and data["others"] == 0
    assert "prefix 'model.' taken off" in err and "Next: actswap export last.ckpt.bundle" in err
    assert ask("verify", "m.pt", "last.ckpt.bundle", "--input", "x.npz")[0] == 1, "it is the trained one"
    code, data, _ = ask("rebuild", "last.ckpt", "--bundle", "m.acon_c")
    assert code == 2 and "exists" in data["error"]["message"]


def test_activations_that_were_not_trained_are_told(folder, ask):
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    model = load_model("m.acon_c").module
    model[0].weight.data += 0.5
    torch.save(model.state_dict(), "last.pt")
    code, data, err = ask("rebuild", "last.pt", "--bundle", "m.acon_c", "-o", "after")
    assert code == 0 and data["changed"] == [] and "Warning: none of the 2 activations was trained" in err
