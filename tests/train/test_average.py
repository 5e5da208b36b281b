"""The moving average follows its recurrence."""

from __future__ import annotations

import torch
from torch import nn

from actswap.train.average import Average


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
