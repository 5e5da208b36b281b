"""Calibration sees exactly the inputs of the watched modules, over all batches, and leaves the model alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actswap.conversion.calibrate import calibrate, calibrate_in_training, watching
from actswap.errors import UsageError

BATCHES = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 3)]


class Branches(nn.Module):
    """`always` runs in both modes, `aside` only in training, `never` in none."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.always, self.aside, self.never = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + self.aside(3 * x)
        return self.always(self.norm(x))


def test_a_histogram_has_the_statistics_of_all_batches_together() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    seen = np.concatenate([model[0](x).detach().numpy().ravel() for x in BATCHES]).astype(np.float64)
    found = calibrate(model, ["1"], BATCHES)["1"]
    assert (found.count, found.lo, found.hi) == (seen.size, seen.min(), seen.max())
    # Two sums of n float64 numbers differ by at most n eps times the sum of their sizes; the mean divides by n.
    bound = seen.size * np.finfo(np.float64).eps * np.abs(seen).mean()
    assert abs(found.mean - seen.mean()) <= bound
    # The deviation is the root of such a mean of squares: half of its relative error, which 4 n eps is above.
    assert abs(found.std / seen.std() - 1) <= 4 * seen.size * np.finfo(np.float64).eps


def test_batches_may_be_calls_keywords_or_pairs_of_a_data_loader() -> None:
    model = nn.Sequential(nn.ReLU())
    x = BATCHES[0]
    for batch in (x, (x,), {"input": x}, ((x,), {}), [x, torch.zeros(5)]):
        found = calibrate(model, ["0"], [batch])["0"]
        assert (found.count, found.lo, found.hi) == (x.numel(), float(x.min()), float(x.max()))


def test_the_model_runs_in_eval_mode_and_is_left_as_it_was() -> None:
    model = Branches().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = calibrate(model, ["always"], BATCHES)
    assert found["always"].count == sum(x.numel() for x in BATCHES)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_progress_counts_the_batches_and_knows_a_total_only_of_sized_ones() -> None:
    for batches, total in ((BATCHES, 2), (iter(BATCHES), 0)):
        told: list[tuple[int, int, str]] = []
        calibrate(nn.Sequential(nn.ReLU()), ["0"], batches, lambda *step, told=told: told.append(step))
        assert [step[:2] for step in told] == [(1, total), (2, total)]


def test_no_batches_are_an_error_and_values_that_are_not_finite_are_counted_apart() -> None:
    with pytest.raises(UsageError, match="calibration data is empty"):
        calibrate(nn.Sequential(nn.ReLU()), ["0"], [])
    found = calibrate(nn.Sequential(nn.ReLU()), ["0"], [torch.full((2, 4), torch.nan)])["0"]
    assert (found.count, found.excluded) == (0, 8)


def test_in_training_only_what_ran_has_a_histogram() -> None:
    model, x = Branches().eval(), BATCHES[0]
    found = calibrate_in_training(model, ["aside", "never"], (x,), {})
    assert set(found) == {"aside"}
    assert (found["aside"].lo, found["aside"].hi) == (float((3 * x).min()), float((3 * x).max()))
    assert not model.training and int(model.norm.num_batches_tracked) == 0
    assert calibrate_in_training(model, [], (x,), {}) == {}


def test_watching_ends_with_its_block_even_on_an_error() -> None:
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(KeyError), watching(model, ["0"]) as streams:
        model(BATCHES[0])
        raise KeyError
    model(BATCHES[1])
    assert streams["0"].finish().count == BATCHES[0].numel()
