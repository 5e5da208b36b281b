"""Pictures stay inside their frame, whatever the data."""

from __future__ import annotations

import re

import numpy as np
import pytest
from strict_html import Checked

from actswap.report.facts import Picture
from actswap.report.svg import activation_svg, curve_svg


def numbers(svg: str) -> list[float]:
    return [float(n) for pair in re.findall(r'points="([^"]+)"', svg) for n in re.split("[ ,]", pair)]


@pytest.mark.parametrize("span", [(-1.0, 1.0), (0.0, 1e-6), (-1e9, 1e9), (5.0, 5.0)])
def test_pictures_stay_inside_their_frame(span):
    x = np.linspace(*span, 20)
    low, high = (span[0], span[1]) if span[0] < span[1] else (span[0] - 1, span[0] + 1)
    curve = np.stack([np.linspace(low, high, 9), np.linspace(low, high, 9) ** 2], 1)
    picture = Picture(np.linspace(low, high, 5), np.array([0.5, 0.0, 0.25, 0.25]), np.stack([x, x], 1), curve)
    svg = activation_svg(picture, 'a "name"')
    Checked(svg)
    assert numbers(svg) and all(0 <= n <= 320 for n in numbers(svg)) and "nan" not in svg


def test_a_curve_needs_two_lines():
    assert curve_svg([{"kind": "train", "step": 1, "loss": 1.0}]) == ""
    Checked(curve_svg([{"kind": "train", "step": i, "loss": 1.0} for i in (1, 2)]))
