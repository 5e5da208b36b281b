"""`actswap verify`: exit code 1 if two models differ by more than the tolerance."""

import pytest
import torch


@pytest.fixture
def other(folder, library_model):
    """The model of the folder, but for one weight."""
    with torch.no_grad():
        library_model[0].weight[0, 0, 0, 0] += 1.0
    torch.save(library_model, folder / "other.pt")


def test_the_same_model_twice(folder, ask):
    code, data, _ = ask("verify", "m.pt", "m.pt", "--input", "x.npz")
    assert code == 0 and data["passed"] and data["parity"]["max_abs"] == 0


def test_a_difference_has_exit_code_1_and_a_tolerance(folder, other, ask):
    code, data, _ = ask("verify", "m.pt", "other.pt", "--input", "x.npz")
    assert code == 1 and not data["passed"] and data["parity"]["max_abs"] > 0
    code, data, _ = ask("verify", "m.pt", "other.pt", "--input", "x.npz", "--tolerance", "1e6")
    assert code == 0 and data["passed"]


def test_a_float16_file_is_verified_and_timed(folder, other, ask):
    assert ask("convert", "m.pt", "--to", "swish", "--input", "x.npz")[0] == 0
    assert ask("export", "m.swish", "--input", "x.npz", "--half", "-o", "half.onnx")[0] == 0
    code, data, said = ask("verify", "m.swish", "half.onnx", "--input", "x.npz")
    assert code == 0 and data["passed"] and "float16" in said
    assert 1e-3 < data["tolerance"] < 0.1, "what the network itself loses in float16, see checks/precision"
    assert ask("verify", "other.pt", "half.onnx", "--input", "x.npz")[0] == 1
    code, data, _ = ask("bench", "half.onnx", "m.swish", "--input", "x.npz", "--runs", "3")
    assert code == 0 and data["ratio"] > 0
