"""A run that diverges is noticed, the first module is named, and its last good weights are kept."""

from __future__ import annotations

import json
import math

import pytest
import torch
import tune_toy
from torch import nn

from actswap.errors import DivergenceError
from actswap.train import TuneConfig, checkpoint, tune
from actswap.train.divergence import Diverged, Watch

ALONE = {"accelerator": "cpu", "batch": 16, "curve": "constant"}


def finite(model: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def test_an_ordinary_run_is_computed_as_without_the_watch():
    """Hooks and copies change no bit; a rate that a ReLU network survives is no divergence."""
    states = []
    for how in ("stop", "ignore"):
        model = tune_toy.toy(0.1)
        report = tune(model, tune_toy.data(), TuneConfig(epochs=6, lr=0.3, log_every=2, on_divergence=how, **ALONE))
        assert report.backoffs == ()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_run_stops_names_the_module_and_keeps_the_last_good_weights(log_every, tmp_path):
    model, before = tune_toy.toy(), tune_toy.toy().state_dict()
    config = TuneConfig(
        epochs=20, lr=1e-3, activation_lr=1e20, batch_norm="frozen", log_every=log_every, out=str(tmp_path), **ALONE
    )
    with pytest.raises(DivergenceError, match=r"diverged at step \d+") as caught:
        tune(model, tune_toy.data(), config)
    assert caught.value.exit_code == 1
    assert caught.value.where == "act (Slopes)"
    assert "its parameter p" in caught.value.why and "--on-divergence backoff" in caught.value.fix
    assert finite(model)
    kept = checkpoint.newest(tmp_path)
    assert str(kept.path) in caught.value.why
    for name, tensor in kept.position(0).model.items():
        assert torch.equal(tensor, model.state_dict()[name])
    if kept.step == 0:
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_loss_that_is_not_finite_from_one_step_to_the_next_stops_the_run():
    with pytest.raises(DivergenceError, match=r"the loss is|explode"):
        tune(tune_toy.toy(), tune_toy.data(), TuneConfig(epochs=20, lr=1e30, log_every=100, **ALONE))


def test_backoff_ends_where_the_smaller_rate_does(tmp_path):
    """From the start with a tenth of the rate, again and again: the numbers of a run that had that rate at once."""
    config = {**ALONE, "epochs": 2, "lr": 1e-3, "momentum": 0.0, "log_every": 100}
    model = tune_toy.toy()
    out = tmp_path / "run"
    given = TuneConfig(**config, activation_lr=1e4, on_divergence="backoff", out=str(out))
    report = tune(model, tune_toy.data(), given)
    assert 1 <= len(report.backoffs) <= 5 and finite(model)
    assert all(entry["module"] == "act (Slopes)" and entry["to"] == 0 for entry in report.backoffs)
    rate = 1e4 * 0.1 ** len(report.backoffs)
    reference = tune_toy.toy()
    tune(reference, tune_toy.data(), TuneConfig(**config, activation_lr=rate))
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)  # 1e4 * 0.1 ** n rounds once more
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "backoff"] == [e["step"] for e in report.backoffs]
    # A run resumed from its last checkpoint has the same history.
    again = tune(tune_toy.toy(), tune_toy.data(), TuneConfig(**{**given.to_dict(), "resume": True}))
    assert again.backoffs == report.backoffs


def test_backoff_gives_up_when_the_weights_are_what_diverges():
    config = TuneConfig(epochs=20, lr=1e30, on_divergence="backoff", activation_lr=0.0, **ALONE)
    with pytest.raises(DivergenceError, match="did not help") as caught:
        tune(tune_toy.toy(), tune_toy.data(), config)
    assert "a smaller lr" in caught.value.fix


def one_process(values: torch.Tensor) -> torch.Tensor:
    return values


def watched(model: nn.Module, x: torch.Tensor, loss: float = 1.0) -> Watch:
    watch = Watch(model, one_process)
    with watch.outputs() as outputs:
        model(x)
    watch.begin(loss, 1.0, outputs)
    return watch


def test_outputs_that_a_norm_hides_from_the_loss_are_seen():
    model = nn.Sequential(tune_toy.Slopes(2), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    x = torch.randn(2, 2, 3, 3)
    watch = watched(model, x)
    with watch.outputs() as outputs:
        model(x)
    watch.check_loss(2, 1.0)
    assert watch.check_modules(2, outputs) is True
    with watch.outputs() as outputs:
        model(1e6 * x)
    with pytest.raises(Diverged) as caught:
        watch.check_modules(3, outputs)
    assert caught.value.module == "0 (Slopes)" and "its output reaches" in caught.value.detail
    assert not model[0]._forward_hooks


def test_the_first_module_in_the_order_of_the_forward_pass_is_named():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x))

    model, x = Backwards(), torch.randn(4, 3)
    watch = watched(model, x)
    with torch.no_grad():
        model.first.weight[0, 0] = math.nan
    problem = Diverged(5, "the loss is nan")
    with watch.outputs() as outputs:
        model(x)
    watch.name_module(problem, outputs)
    assert problem.module == "first (Linear)" and problem.detail.startswith("its parameter weight is not finite")


def test_one_odd_batch_is_no_divergence_and_a_mask_may_be_infinite():
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.masked_fill(x > 0, -math.inf)

    x = torch.randn(4, 3)
    watch = watched(nn.Sequential(nn.Linear(3, 3), Masked()), x, loss=2.0)
    for step in range(1, 10):
        watch.check_loss(step, 2.0)
    watch.check_loss(10, 200.0)  # the mean of ten is 21.8, the limit 60
    with pytest.raises(Diverged, match="the loss is 600"):
        watch.check_loss(11, 600.0)
    with pytest.raises(Diverged, match="nan"):
        watch.check_validation(12, math.nan)
    watch.check_validation(12, 1999.0)  # running statistics lag behind the weights
    with pytest.raises(Diverged):
        watch.check_validation(12, 2001.0)


def test_the_state_of_a_watch_is_plain_data_and_goes_on():
    x = torch.randn(4, 3)
    model = nn.Sequential(nn.Linear(3, 3))
    watch = watched(model, x, loss=2.0)
    again = Watch(model, one_process)
    assert not again.begun
    again.resume(json.loads(json.dumps(watch.state())))
    assert again.begun and again.state() == watch.state()
