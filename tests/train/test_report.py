"""Metrics are read line by line; the curve is a picture."""

from __future__ import annotations

from actswap.train import draw_curve
from actswap.train.report import read_metrics


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
