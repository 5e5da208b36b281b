"""The picture of a start: curves over the calibrated range, as far apart as the start says."""

import numpy as np
import pytest
import torch
from report_net import Net

from actswap.conversion.pipeline import convert
from actswap.report.fitted import curves, draw


@pytest.fixture(scope="module")
def choices():
    torch.manual_seed(0)
    x = torch.randn(8, 1, 10, 10)
    return convert(Net().eval(), "acon_c", x, skip=["type:sigmoid"], calibration=[x]).plan.choices


def test_curves_cover_the_range_and_differ_by_the_bound_at_most(choices):
    for choice in choices:
        picture = curves(choice)
        assert picture.x[0] < choice.histogram.lo and choice.histogram.hi < picture.x[-1]
        assert choice.site.name in picture.title and choice.start.kind in picture.title
        assert 0 < np.abs(picture.target - picture.source).max() <= choice.start.bound * (1 + 1e-6)


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_chooses_the_format(choices, suffix, begins, tmp_path):
    draw(curves(choices[0]), tmp_path / f"start.{suffix}")
    assert (tmp_path / f"start.{suffix}").read_bytes().startswith(begins)
