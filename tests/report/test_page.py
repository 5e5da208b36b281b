"""The page: one file that needs nothing else, carries its figures, and shows in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from strict_html import Checked

from actswap.errors import FileError
from actswap.report import render, summary, write_report

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


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
