"""What a report shows was measured, and measuring changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from report_net import Net

from actswap.conversion.pipeline import convert
from actswap.report import gather


def test_a_picture_shows_what_really_came_in_and_out(made):
    for site in made.sites:
        picture = site.picture
        assert picture.shares.sum() == pytest.approx(1)
        x, y = picture.points.T
        assert picture.edges[0] <= x.min() and x.max() <= picture.edges[-1]
        slope = 0.0 if site.choice.site.source.kind == "relu" else 0.25
        # ACON's distance from its source is at most its bound; float32 adds its rounding.
        assert np.abs(y - np.maximum(x, slope * x)).max() <= site.choice.start.bound + 1e-6
        grid, source = picture.source.T
        np.testing.assert_allclose(source, np.maximum(grid, slope * grid), atol=1e-12)


def test_measuring_leaves_the_network_as_it_was():
    model, x = Net().train(), torch.randn(4, 1, 10, 10)
    result = convert(model, "swish", x, only=["act"])
    result.model.train()
    kept = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    gather(result.model, result.plan, x, repeats=1)
    assert result.model.training and not any(m._forward_hooks for m in result.model.modules())
    assert all(torch.equal(kept[name], tensor) for name, tensor in result.model.state_dict().items())
