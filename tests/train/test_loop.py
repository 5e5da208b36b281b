"""The loop: what is trained, what is kept, and that a killed or a shared run ends where a whole one does."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import tune_toy
from safetensors.torch import load_file

from actswap.errors import UsageError
from actswap.train import Data, Ramp, TuneConfig, evaluate, param_groups, tune

CPU = {"accelerator": "cpu"}
SCRIPT = Path(tune_toy.__file__)
ROOT = SCRIPT.parents[2]


def run_script(config: dict, *kill: str, processes: int = 1) -> subprocess.CompletedProcess:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
    }
    command = [*launcher, str(SCRIPT), json.dumps({**CPU, **config}), *kill]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def same_bits(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


def test_training_lowers_the_loss_and_scores_the_kept_weights():
    model = tune_toy.toy()
    report = tune(model, tune_toy.data(), TuneConfig(epochs=12, batch=16, lr=0.1, **CPU))
    assert report.after["loss"] < report.before["loss"] and report.after["score"] > 0.8
    assert evaluate(model, tune_toy.data().valid) == report.after["score"]
    assert report.steps == 48 and report.images == 768 and not model.training


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    # Dropout, random items, momentum, averaging and a half-filled metrics window all carry state over the
    # kill.
    config = {
        "epochs": 4,
        "batch": 16,
        "lr": 0.1,
        "dropout": 0.2,
        "noisy": True,
        "ema": 0.9,
        "optimizer": "adamw",
    }
    config |= {"log_every": 3, "checkpoint_every": 5}
    whole = run_script({**config, "out": str(tmp_path / "whole")})
    assert whole.returncode == 0, whole.stderr
    killed = run_script({**config, "out": str(tmp_path / "cut")}, "8")
    assert killed.returncode == -9
    assert not (tmp_path / "cut/model.safetensors").exists()
    again = run_script({**config, "out": str(tmp_path / "cut"), "resume": True})
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["resumed_from"] == 5
    assert same_bits(load_file(tmp_path / "whole/model.safetensors"), load_file(tmp_path / "cut/model.safetensors"))
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")


def test_two_processes_compute_what_one_does(tmp_path):
    # In float64 sums in another order differ by some 1e-16 relative per step; 1e-10 leaves room for 12 steps.
    config = {
        "epochs": 3,
        "batch": 16,
        "lr": 0.1,
        "double": True,
        "precision": "64-true",
        "augment": ["flip"],
    }
    for processes in (1, 2):
        done = run_script({**config, "out": str(tmp_path / str(processes))}, processes=processes)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-10, atol=1e-10)
    first, second = (lines(tmp_path / name) for name in ("1", "2"))
    assert [row["loss"] for row in first] == pytest.approx([row["loss"] for row in second], abs=1e-9)


def test_only_the_activations_move_when_the_rest_is_frozen():
    model = tune_toy.toy()
    model.fc.bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    config = TuneConfig(epochs=1, batch=16, train="activations", batch_norm="frozen", **CPU)
    report = tune(model, tune_toy.data(), config)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"act.p1", "act.p2"}
    assert model.conv.weight.requires_grad and not model.fc.bias.requires_grad
    assert report.trained == 12


def test_frozen_batch_norm_keeps_its_statistics_and_a_training_one_does_not():
    for mode, kept in (("frozen", True), ("train", False)):
        model = tune_toy.toy()
        tune(model, tune_toy.data(), TuneConfig(epochs=1, batch=16, batch_norm=mode, **CPU))
        assert torch.equal(model.norm.running_mean, torch.zeros(6)) is kept


def test_a_teacher_guides_and_is_not_changed():
    teacher = tune_toy.toy().eval()
    tune(teacher, tune_toy.data(), TuneConfig(epochs=8, batch=16, lr=0.1, **CPU))
    kept, mode = copy.deepcopy(teacher.state_dict()), teacher.training
    student = tune_toy.toy()
    torch.nn.init.normal_(student.act.p2, generator=torch.Generator().manual_seed(1))
    x = tune_toy.data().valid.tensors[0]
    before = (student.eval()(x) - teacher(x)).abs().mean()
    config = TuneConfig(epochs=12, batch=16, lr=0.1, distill=1.0, distill_features=0.5, **CPU)
    tune(student, tune_toy.data(), config, teacher=teacher)
    assert (student(x) - teacher(x)).abs().mean() < 0.5 * before
    assert same_bits(kept, teacher.state_dict()) and teacher.training is mode
    assert not teacher.act._forward_hooks and not student.act._forward_hooks


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    teacher = tune_toy.toy().eval()
    student = copy.deepcopy(teacher)
    config = TuneConfig(
        epochs=1,
        batch=16,
        lr=0.1,
        distill=1.0,
        distill_features=1.0,
        batch_norm="frozen",
        weight_decay=0,
        **CPU,
    )
    tune(student, tune_toy.data(), config, teacher=teacher)
    # The gradients are rounding errors of two equal softmaxes: about 1e-7 of the logits' scale.
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(tensor, teacher.state_dict()[name], rtol=0, atol=1e-6)


def test_the_callers_random_generator_is_left_alone():
    state = torch.get_rng_state()
    tune(tune_toy.toy(0.1), tune_toy.data(), TuneConfig(epochs=1, batch=16, **CPU))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_random_items_do_not_depend_on_the_loading_processes(workers, tmp_path):
    made = tune_toy.data()
    model = tune_toy.toy()
    tune(model, Data(tune_toy.Noisy(made.train)), TuneConfig(epochs=1, batch=16, workers=workers, **CPU))
    reference = tune_toy.toy()
    tune(reference, Data(tune_toy.Noisy(made.train)), TuneConfig(epochs=1, batch=16, **CPU))
    assert same_bits(model.state_dict(), reference.state_dict())


def test_bfloat16_trains_close_to_float32():
    reports = [
        tune(
            tune_toy.toy(),
            tune_toy.data(),
            TuneConfig(epochs=8, batch=16, lr=0.1, precision=precision, **CPU),
        )
        for precision in ("32-true", "bf16-mixed")
    ]
    # bfloat16 keeps 8 bits: 0.4 % per operation, a few operations deep.
    assert reports[1].after["loss"] == pytest.approx(reports[0].after["loss"], rel=0.1)


def test_every_problem_is_named_before_anything_starts(tmp_path):
    config = TuneConfig(
        epochs=0, batch=0, optimizer="adam", ema=1.5, distill=0.5, augment=("turn",), schedules={"gamma":
        Ramp(0, 1, 0.9, 0.1)}, out=str(tmp_path / "run"), **CPU,
    )  # fmt: skip
    with pytest.raises(UsageError) as caught:
        tune(tune_toy.toy(), tune_toy.data(), config)
    for word in ("epochs", "batch", "optimizer", "ema", "teacher", "turn", "schedules.gamma", "0.9"):
        assert word in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_overwritten_and_not_resumed_with_other_settings(tmp_path):
    config = {"epochs": 1, "batch": 16, "out": str(tmp_path / "run"), **CPU}
    tune(tune_toy.toy(), tune_toy.data(), TuneConfig(**config))
    with pytest.raises(UsageError, match="another run"):
        tune(tune_toy.toy(), tune_toy.data(), TuneConfig(**config))
    with pytest.raises(UsageError, match=r"lr was 0.05, is 0.2.*64 items, has 32"):
        tune(tune_toy.toy(), tune_toy.data(32), TuneConfig(**config | {"lr": 0.2, "resume": True}))


def test_a_finished_run_resumed_changes_nothing(tmp_path):
    config = {"epochs": 2, "batch": 16, "ema": 0.8, "reestimate": 2, "out": str(tmp_path / "run"), **CPU}
    first, second = tune_toy.toy(), tune_toy.toy()
    one = tune(first, tune_toy.data(), TuneConfig(**config))
    written = lines(tmp_path / "run")
    two = tune(second, tune_toy.data(), TuneConfig(**config, resume=True))
    assert lines(tmp_path / "run") == written
    assert same_bits(first.state_dict(), second.state_dict()) and one.after == two.after


def test_activation_parameters_do_not_decay_and_every_parameter_stands_once():
    model = tune_toy.toy()
    model.second = model.act  # shared
    model.conv.bias.requires_grad_(False)
    groups = {group["name"]: group for group in param_groups(model, weight_decay=0.1, lr=0.2, activation_lr=0.7)}
    assert {id(p) for p in groups["activations"]["params"]} == {id(model.act.p1), id(model.act.p2)}
    assert (groups["activations"]["weight_decay"], groups["activations"]["lr"]) == (0.0, 0.7)
    assert (groups["weights"]["weight_decay"], groups["biases"]["weight_decay"]) == (0.1, 0.0)
    everything = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_weight_decay_pulls_weights_and_leaves_activations():
    model = tune_toy.toy()
    before = copy.deepcopy(model.state_dict())
    flat = Data(
        torch.utils.data.TensorDataset(torch.zeros(16, 1, 9, 9), torch.zeros(16).long()),
        loss=lambda y, t: 0 * y.sum(),
    )
    tune(
        model,
        flat,
        TuneConfig(epochs=1, batch=16, lr=0.1, weight_decay=0.5, curve="constant", momentum=0, **CPU),
    )
    torch.testing.assert_close(model.conv.weight, before["conv.weight"] * 0.95)
    assert torch.equal(model.act.p1, before["act.p1"]) and torch.equal(model.norm.weight, before["norm.weight"])
