"""`actswap tune`: a bundle is trained and saved again; a run that diverges exits with 1 and names the module."""

import pytest
import torch

from actswap.io import bundle, bundle_files
from actswap.train import checkpoint

DATA = """
import torch
from torch.utils.data import TensorDataset

def make():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, 12, 12, generator=generator)
    y = x.mean((2, 3)).argmax(1)
    return TensorDataset(x[:32], y[:32]), TensorDataset(x[32:], y[32:])
"""
QUICK = ("--data", "cli_tune_data:make", "--batch", "8", "--set", "accelerator=cpu", "--set", "curve=constant")


@pytest.fixture
def converted(folder, ask):
    (folder / "cli_tune_data.py").write_text(DATA)
    assert ask("convert", "m.pt", "--to", "acon_c", "--input", "x.npz")[0] == 0
    return folder


def test_a_bundle_is_trained_and_saved(converted, library_model, ask):
    code, data, _ = ask("tune", "m.acon_c", *QUICK, "--lr", "0.01", "-o", "out")
    assert code == 0 and data["steps"] == 4 and data["backoffs"] == []
    trained = bundle.load("out/bundle", library_model)
    start = bundle.load("m.acon_c", library_model)
    assert any(not torch.equal(trained.state_dict()[name], tensor) for name, tensor in start.state_dict().items())
    code, data, _ = ask("tune", "m.acon_c", *QUICK, "-o", "out")
    assert code == 2 and "another result" in data["error"]["what"]


def test_a_run_that_diverges_exits_with_1_and_keeps_the_last_good_weights(converted, ask):
    wild = (*QUICK, "--lr", "0.001", "--set", "activation_lr=1e18", "-o", "out")
    code, data, _ = ask("tune", "m.acon_c", *wild)
    assert code == 1 and data["error"]["kind"] == "DivergenceError"
    assert data["error"]["where"] in ("1 (AconC)", "3 (AconC)") and "--on-divergence backoff" in data["error"]["fix"]
    assert not (converted / "out" / "bundle").exists()
    kept = checkpoint.newest(converted / "out" / "tune").position(0).model
    assert all(tensor.isfinite().all() for tensor in kept.values())


def test_backoff_returns_with_smaller_rates(converted, ask):
    wild = (*QUICK, "--lr", "0.001", "--set", "activation_lr=1e4", "--on-divergence", "backoff", "-o", "out")
    code, data, _ = ask("tune", "m.acon_c", *wild)
    assert code == 0 and 1 <= len(data["backoffs"]) <= 5
    assert data["after"]["loss"] < 10 * data["before"]["loss"]


def test_settings_are_checked_before_anything_is_read(folder, ask):
    code, data, _ = ask("tune", "none", "--data", "x", "-o", "out", "--set", "emma=0.9", "--set", 'lr="high"')
    assert code == 2 and "did you mean ema" in data["error"]["why"] and "lr" in data["error"]["why"]
    code, data, _ = ask("tune", "none", "--data", "x", "-o", "out", "--batch", "0")
    assert code == 2 and "batch = 0" in data["error"]["why"]


def test_a_new_head_and_the_activations_train_and_the_rest_keeps_its_bits(converted, library_model, ask):
    parts = ("--train", "activations,head", "--head", "4", "--lr", "0.01")
    code, data, _ = ask("tune", "m.acon_c", *QUICK, *parts, "-o", "out")
    assert code == 0, data
    trained = bundle.load("out/bundle", library_model)
    start = bundle.load("m.acon_c", library_model)
    heads = bundle_files.read("out/bundle")["heads"]
    assert list(heads.values()) == [4]
    (head,) = heads
    before, after = start.state_dict(), trained.state_dict()
    changed = {n for n in before if not n.startswith(head) and not torch.equal(before[n], after[n])}
    assert {"1.p1", "3.p1"} <= changed <= {f"{k}.{n}" for k in "13" for n in ("p1", "p2", "log_beta")}
    code, data, _ = ask("tune", "m.acon_c", *QUICK, *parts, "--format", "adapter", "-o", "small")
    assert code == 0, data
    adapter = bundle.load("small/adapter", library_model)
    assert all(torch.equal(value, after[name]) for name, value in adapter.state_dict().items())
    code, data, _ = ask("tune", "m.acon_c", *QUICK, "--train", "hed", "-o", "other")
    assert code == 2 and "head" in data["error"]["fix"]
    code, data, _ = ask("tune", "m.acon_c", *QUICK, "--head", "ten", "-o", "other")
    assert code == 2 and "--head 10" in data["error"]["fix"]
