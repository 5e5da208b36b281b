"""The report: one file that needs nothing else, holds what was measured, and shows in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actswap.conversion.pipeline import convert
from actswap.errors import FileError
from actswap.report import gather, render, summary, write_report
from actswap.report.facts import Picture
from actswap.report.svg import activation_svg, curve_svg

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.prelu = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.PReLU(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.act(self.conv(x)) - 0.1)
        return self.fc(torch.sigmoid(x).mean((2, 3)))


class Checked(HTMLParser):
    """Parses strictly: every tag closed in order, nothing loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.words: list[str] = []
        self.data: dict | None = None
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        given = dict(attrs)
        assert not {"src", "href", "xlink:href", "srcset", "action"} & given.keys(), given
        assert "url(" not in given.get("style", "") and not any(name.startswith("on") for name in given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data = json.loads(data)
        elif self.open and self.open[-1] == "style":
            assert "url(" not in data and "@import" not in data
        else:
            self.words.append(data)


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(8, 1, 10, 10)
    result = convert(model, "acon_c", x, skip=["type:sigmoid"])
    rows = [{"kind": "train", "step": i, "loss": 2.0 / i} for i in range(1, 6)]
    rows.append({"kind": "valid", "step": 5, "loss": 0.3, "score": 0.9})
    return gather(
        result.model, result.plan, x, original=model, title="A <small> & odd title", metrics=rows,
        parity=result.report.parity.to_dict(), accuracy={"original": 91.5, "after": 92.25}, notes=["<b>note</b>"],
    )  # fmt: skip


def test_the_page_is_well_formed_and_loads_nothing(made):
    page = Checked(render(made))
    assert page.counts["h1"] == 1 and page.counts["svg"] == len(made.sites) + 1
    text = " ".join(page.words)
    for word in (
        "A <small> & odd title",
        "<b>note</b>",
        "act",
        "prelu",
        "not selected",
        "92.25",
        "acon_c",
        "limit",
    ):
        assert word in text, word
    assert "default-src 'none'" in render(made)


def test_the_page_carries_its_figures(made):
    data = Checked(render(made)).data
    assert data == json.loads(json.dumps(summary(made)))
    assert data["replaced"] == ["act", "prelu"] and data["accuracy"]["original"] == 91.5
    before, after = data["cost"]["before"], data["cost"]["after"]
    assert after["parameters"] - before["parameters"] == 3 * 8 - 4
    assert after["flops"] > before["flops"] > 0 and set(data["latency_ms"]) == {"before", "after"}


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


def test_the_file_is_written_or_an_error_says_why(made, tmp_path):
    path = write_report(made, tmp_path / "report.html")
    assert path.read_text() == render(made)
    with pytest.raises(FileError):
        write_report(made, tmp_path / "none/report.html")


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_shows_it(made, tmp_path):
    page = write_report(made, tmp_path / "report.html")
    common = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    run = {"capture_output": True, "text": True, "timeout": 120}
    dom = subprocess.run([*common, "--dump-dom", page.as_uri()], **run).stdout
    assert dom.count("<svg") == len(made.sites) + 1
    picture = tmp_path / "page.png"
    command = [
        *common,
        "--hide-scrollbars",
        "--window-size=1100,1600",
        f"--screenshot={picture}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, **run)
    image = pytest.importorskip("PIL.Image").open(picture).convert("RGB")
    pixels = np.asarray(image).reshape(-1, 3)
    # The picture's points (orange) and bars (blue) are really drawn, and most of the page is paper.
    assert (np.abs(pixels - np.array([0xC2, 0x41, 0x0C])).sum(1) < 30).sum() > 200
    assert (np.abs(pixels - np.array([0xD5, 0xE3, 0xF5])).sum(1) < 12).sum() > 2000
    assert (pixels.min(1) > 250).mean() > 0.5
