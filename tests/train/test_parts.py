"""The pieces of the loop: curves, ramps, averages, statistics, losses, batches, checkpoints, folders."""

from __future__ import annotations

import math
import pickle
import sys

import numpy as np
import pytest
import torch
import tune_toy
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from actswap import activations
from actswap.activations.acon_c import AconC
from actswap.activations.morph import Morph
from actswap.conversion.pipeline import convert
from actswap.errors import UsageError
from actswap.train import Data, Ramp, TuneConfig, checkpoint, draw_curve, load_data, param_groups, reestimate
from actswap.train.average import Average
from actswap.train.config import CURVES
from actswap.train.data import augment, evaluation_batches, training_batches
from actswap.train.distill import FeaturePairs, logit_loss, paired_modules
from actswap.train.report import read_metrics
from actswap.train.schedule import Ramps, rate_factor


@given(st.sampled_from(CURVES), st.floats(0, 1), st.floats(0.01, 0.9))
def test_a_rate_curve_peaks_at_the_end_of_its_warm_up(curve, fraction, warmup):
    assert 0 <= rate_factor(curve, fraction, warmup) <= 1
    assert rate_factor(curve, warmup, warmup) == pytest.approx(1)
    if curve != "constant":
        assert rate_factor(curve, 1.0, warmup) == pytest.approx(0, abs=1e-12)
        assert rate_factor(curve, 0.0, warmup) < 0.05


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_ramp_stays_between_its_ends_and_reaches_them(start, end, one, two, fraction):
    ramp = Ramp(start, end, min(one, two), max(one, two))
    slack = 1e-12 * (1 + abs(start) + abs(end))
    assert min(start, end) - slack <= ramp.at(fraction) <= max(start, end) + slack
    assert ramp.at(1.0) == end
    assert ramp.at(ramp.begin) == (start if ramp.until > ramp.begin else end)


def test_the_beta_ramp_writes_the_sharpness_and_then_lets_go():
    model = nn.Sequential(AconC(3))
    ramps = Ramps(model, {"beta": Ramp(100.0, 10.0, 0.0, 0.5)})
    ramps.apply(0.0)
    torch.testing.assert_close(model[0].beta, torch.full((3,), 100.0))
    ramps.apply(0.25)
    torch.testing.assert_close(model[0].beta, torch.full((3,), 55.0))
    with torch.no_grad():
        model[0].log_beta.fill_(0.0)
    ramps.apply(0.75)
    assert torch.equal(model[0].log_beta, torch.zeros(3))


def test_morphs_and_temperatures_follow_their_ramps():
    morph, dynamic = Morph(nn.ReLU(), AconC(2)), activations.get("dy_relu_c").build(4)
    ramps = Ramps(nn.ModuleList([morph, dynamic]), {"morph": Ramp(0, 1, 0, 0.5), "temperature": Ramp(10, 1)})
    for fraction, t, tau in ((0.0, 0.0, 10.0), (0.25, 0.5, 7.75), (0.5, 1.0, 5.5), (1.0, 1.0, 1.0)):
        ramps.apply(fraction)
        assert morph.t == pytest.approx(t) and float(dynamic.tau) == pytest.approx(tau)


@pytest.mark.parametrize("name", [spec.name for spec in activations.TRAINABLE])
def test_what_a_specification_exempts_does_not_decay_and_matrices_do(name):
    module = activations.get(name).build(8)
    groups = {group["name"]: group for group in param_groups(nn.Sequential(module), weight_decay=0.1)}
    assert not groups.keys() - {"activations", "activation_weights"}
    exempt = {id(p) for p in groups["activations"]["params"]} if "activations" in groups else set()
    for path, parameter in module.named_parameters():
        named = path in activations.get(name).no_decay
        assert (id(parameter) in exempt) == (named or parameter.dim() < 2), path
    assert all(group["weight_decay"] == (0.1 if n == "activation_weights" else 0.0) for n, group in groups.items())


def test_a_ramp_that_nothing_answers_to_is_refused():
    for name in ("beta", "morph", "temperature"):
        with pytest.raises(UsageError, match=name):
            Ramps(nn.Linear(2, 2), {name: Ramp(0.0, 1.0)})


def test_the_average_follows_its_recurrence():
    model = nn.BatchNorm1d(2)
    average, expected = Average(model, 0.5), 1.0
    for step in range(6):
        with torch.no_grad():
            model.weight.fill_(float(step))
            model.num_batches_tracked.fill_(step)
        average.update(model, step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step
        torch.testing.assert_close(average.state["weight"], torch.full((2,), expected))
        assert int(average.state["num_batches_tracked"]) == step


def test_statistics_taken_anew_are_those_of_the_batches():
    model = tune_toy.toy(dropout=0.5).double()
    inputs = [torch.randn(8, 1, 9, 9, dtype=torch.float64) for _ in range(3)]
    model.norm.running_mean.fill_(7.0)
    modes = [module.training for module in model.modules()]
    assert reestimate(model, inputs) == 3
    maps = [model.conv(x).detach() for x in inputs]
    torch.testing.assert_close(model.norm.running_mean, torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert modes == [module.training for module in model.modules()] and model.norm.momentum == 0.1
    assert reestimate(nn.Linear(2, 2), [torch.zeros(1, 2)]) == 0


@given(st.floats(0.5, 20))
def test_the_logit_loss_is_a_divergence(temperature):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    assert float(logit_loss(a, a, temperature)) == pytest.approx(0, abs=1e-5 * temperature**2)
    p, q = torch.softmax(a.double() / temperature, 1), torch.softmax(b.double() / temperature, 1)
    expected = float((q * (q / p).log()).sum() / 5) * temperature**2
    # float32 logarithms: 1e-7 absolute each, times T^2
    assert float(logit_loss(a, b, temperature)) == pytest.approx(expected, rel=1e-4, abs=1e-6 * temperature**2)


class Blocks(nn.Module):
    """One site as a module of its own, one inside a block that the teacher computes with a function."""

    def __init__(self, converted: bool) -> None:
        super().__init__()
        self.act = tune_toy.Slopes(2) if converted else nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(2, 2, 1))
        if converted:
            self.block.add_module("relu", tune_toy.Slopes(2))

    def forward(self, x):
        return self.block(self.act(x))


def test_features_are_compared_at_sites_and_where_those_are_hidden_at_their_owner():
    student, teacher = Blocks(True), Blocks(False)
    assert paired_modules(student, teacher) == ["act", "block"]
    x = torch.randn(2, 2, 3, 3)
    with FeaturePairs(student, teacher) as pairs:
        student(x), teacher(x)
        a, b = student.act(x), teacher.act(x)
        one = (a - b).square().mean() / b.square().mean()
        pairs.clear()
        a, b = student(x), teacher(x)
        two = (a - b).square().mean() / b.square().mean()
        torch.testing.assert_close(pairs.loss(), (one + two) / 2)
    assert not student.act._forward_hooks and not teacher.block._forward_hooks
    with pytest.raises(UsageError, match="no site"):
        FeaturePairs(nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()))


def test_features_of_plain_targets_are_compared_too():
    """A deployment recipe (SiLU to Hardswish) has no trainable activation, but sites all the same."""
    teacher = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(3, 4)
    for start in ("morph", "none"):
        assert paired_modules(convert(teacher, "hardswish", x, start=start, verify=False).model, teacher) == ["1"]


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 5))
def test_processes_share_every_batch_and_an_epoch_sees_no_image_twice(count, world, seed):
    batch = max(1, count // 3) // world * world
    if batch == 0:
        return
    dataset = TensorDataset(torch.arange(count).float(), torch.arange(count))
    steps = range(2 * (count // batch))
    alone = [t.tolist() for _, t in training_batches(dataset, batch, seed, steps, 0, 1, 0)]
    shares = [list(training_batches(dataset, batch, seed, steps, rank, world, 0)) for rank in range(world)]
    assert [[index for part in shares for index in part[i][1].tolist()] for i in steps] == alone
    first = [index for indices in alone[: count // batch] for index in indices]
    assert len(set(first)) == len(first) == count // batch * batch
    later = [t.tolist() for _, t in training_batches(dataset, batch, seed, steps[1:], 0, 1, 0)]
    assert later == alone[1:]
    seen = [i for r in range(world) for _, t in evaluation_batches(dataset, 4, r, world, 0) for i in t.tolist()]
    assert sorted(seen) == list(range(count))


def test_augmentation_is_one_draw_per_image_whatever_the_processes():
    x = torch.arange(6 * 16 * 16).float().reshape(6, 1, 16, 16) + 1
    whole = augment(x, ("flip", "shift"), 1, 2, 0, 1)
    halves = [augment(x[3 * r : 3 * r + 3], ("flip", "shift"), 1, 2, r, 2) for r in range(2)]
    assert torch.equal(whole, torch.cat(halves))
    flipped = augment(x, ("flip",), 1, 2, 0, 1)
    for image, result in zip(x, flipped, strict=True):
        assert torch.equal(result, image) or torch.equal(result, image.flip(-1))
    assert not torch.equal(flipped, augment(x, ("flip",), 1, 3, 0, 1))
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    for image, result in zip(padded, augment(x, ("shift",), 1, 2, 0, 1), strict=True):
        windows = [image[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        assert any(torch.equal(result, window) for window in windows)


def write(out, step, barrier=lambda: None):
    state = {"step": step, "config": {}, "images": 1}
    checkpoint.write(out, state, {"w": torch.full((2,), float(step))}, None, {"random": torch.zeros(1)}, 0, barrier)


def test_the_newest_whole_checkpoint_counts_and_old_ones_go(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    for step in (1, 2, 10):
        write(tmp_path, step)
    found = checkpoint.newest(tmp_path)
    assert found.step == 10 and float(found.model()["w"][0]) == 10 and found.average() is None
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000010"]

    class Killed(BaseException):
        pass

    barriers = iter([lambda: None])

    def dies_while_writing():
        step = next(barriers, None)
        if step is None:
            raise Killed
        step()

    with pytest.raises(Killed):
        write(tmp_path, 11, dies_while_writing)
    assert checkpoint.newest(tmp_path).step == 10


def test_shared_weights_are_saved_and_come_back(tmp_path):
    shared = torch.arange(3.0)
    state = {"step": 1, "config": {}, "images": 1}
    checkpoint.write(tmp_path, state, {"a": shared, "b": shared}, {"a": shared}, {}, 0, lambda: None)
    found = checkpoint.newest(tmp_path)
    assert torch.equal(found.model()["a"], shared) and torch.equal(found.model()["b"], shared)
    assert torch.equal(found.average()["a"], shared) and found.process(1) is None


class Evil:
    ran = False

    def __reduce__(self):
        return (setattr, (Evil, "ran", True))


def test_a_checkpoint_does_not_run_what_was_slipped_into_it(tmp_path):
    write(tmp_path, 1)
    found = checkpoint.newest(tmp_path)
    torch.save({"optimizer": Evil()}, found.path / "process-0.pt")
    with pytest.raises(pickle.UnpicklingError):
        found.process(0)
    assert not Evil.ran


def test_a_half_written_line_of_metrics_is_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert read_metrics(file) == []
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_metrics(file)] == [1, 2]


def test_the_curve_is_a_picture(tmp_path):
    rows = [{"kind": "train", "step": i, "loss": 1 / (1 + i)} for i in range(5)]
    rows.append({"kind": "valid", "step": 4, "loss": 0.5, "score": 0.9})
    draw_curve(rows, tmp_path / "curve.png")
    draw_curve(rows, tmp_path / "curve.svg")
    assert (tmp_path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def images(root, split, classes=("cat", "dog"), count=3, size=(20, 14)):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for name in classes:
        (root / split / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            image.fromarray(pixels).save(root / split / name / f"{i}.png")


def test_an_image_folder_is_read(tmp_path):
    images(tmp_path, "train")
    images(tmp_path, "val", ("dog",))
    data = load_data(str(tmp_path), 16)
    assert len(data.train) == 6 and [label for _, label in data.train.files] == [0, 0, 0, 1, 1, 1]
    x, label = data.valid[0]
    assert x.shape == (3, 16, 16) and x.dtype == torch.float32 and label == 1 and x.abs().max() < 3
    assert not torch.equal(data.train[0][0], data.train[0][0]) and torch.equal(x, data.valid[0][0])
    images(tmp_path, "val2", ("dog",))
    (tmp_path / "val/bird").mkdir()
    with pytest.raises(UsageError, match="bird"):
        load_data(str(tmp_path), 16)


@pytest.mark.parametrize(
    "source", ["nowhere", "no.such:thing", "tune_toy:absent", "math:pi", ":", "tune_toy:toy", "math:sqrt"]
)
def test_data_that_cannot_be_made_is_refused_with_its_name(source):
    with pytest.raises(UsageError) as caught:
        load_data(source)
    assert source in str(caught.value)


def test_a_data_function_may_return_a_pair_or_one_set():
    assert load_data("tune_toy:data").valid is not None
    from actswap.train.source import as_data

    one = TensorDataset(torch.zeros(2))
    assert as_data(one).valid is None and as_data((one, one)).valid is one and as_data(Data(one)).train is one


def test_settings_without_problems_have_none():
    assert TuneConfig().problems() == []
    assert math.isclose(TuneConfig().lr, 0.05)


def test_a_data_function_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine_here.py").write_text("import torch\ndef make():\n    return [(torch.zeros(1), 0)]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    assert len(load_data("mine_here:make").train) == 1
    assert str(tmp_path) not in sys.path
