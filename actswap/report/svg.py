"""Pictures as inline SVG, without a plotting library: an activation over its histogram, a training curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actswap.fit.points import Array
from actswap.report.facts import Picture

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 190, 34, 20, 6


class _Axes:
    """Maps data to the drawing area and draws its frame."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = _widened(x), _widened(y)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - 6), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    def line(self, points: Array, css: str) -> str:
        inside = [self.at(float(x), min(max(float(y), self.y[0]), self.y[1])) for x, y in points]
        return f'<polyline class="{css}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in inside)}"/>'

    def frame(self) -> str:
        left, low = self.at(self.x[0], self.y[0])
        right, high = self.at(self.x[1], self.y[1])
        parts = [f'<path class="frame" d="M{left:.1f},{high:.1f}V{low:.1f}H{right:.1f}"/>']
        for value in _ticks(self.x):
            across, _ = self.at(value, self.y[0])
            parts.append(f'<text x="{across:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{value:g}</text>')
        for value in _ticks(self.y):
            _, up = self.at(self.x[0], value)
            parts.append(f'<text x="{LEFT - 4}" y="{up + 3:.1f}" text-anchor="end">{value:g}</text>')
        if self.x[0] < 0 < self.x[1]:
            parts.append(self.line(np.array([[0, self.y[0]], [0, self.y[1]]]), "zero"))
        if self.y[0] < 0 < self.y[1]:
            parts.append(self.line(np.array([[self.x[0], 0], [self.x[1], 0]]), "zero"))
        return "".join(parts)


def activation_svg(picture: Picture, label: str) -> str:
    """Draw an activation: bars for its inputs, a dashed line for the replaced one, points for what it computes."""
    curves = [picture.points] + ([picture.source] if picture.source is not None else [])
    low = min(float(c[:, 1].min()) for c in curves)
    high = max(float(c[:, 1].max()) for c in curves)
    axes = _Axes((float(picture.edges[0]), float(picture.edges[-1])), (low, high))
    floor, tallest = axes.y[0], float(picture.shares.max())
    bars = []
    for left, right, share in zip(picture.edges[:-1], picture.edges[1:], picture.shares, strict=True):
        if share > 0:
            x0, base = axes.at(float(left), floor)
            x1, _ = axes.at(float(right), floor)
            tall = (HEIGHT - BOTTOM - TOP) * 0.9 * math.sqrt(float(share) / tallest)  # roots keep tails visible
            bars.append(f'<rect x="{x0:.1f}" y="{base - tall:.1f}" width="{x1 - x0:.1f}" height="{tall:.1f}"/>')
    dots = (axes.at(float(x), float(y)) for x, y in picture.points)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.5"/>' for x, y in dots)
    before = axes.line(picture.source, "before") if picture.source is not None else ""
    return _svg(f'<g class="bars">{"".join(bars)}</g>{axes.frame()}{before}<g class="now">{marks}</g>', label)


def curve_svg(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Draw the losses of a fine-tuning run; an empty text if there are none."""
    rows = [row for row in metrics if row.get("kind") == "train"]
    valid = [row for row in metrics if row.get("kind") == "valid"]
    if len(rows) < 2:
        return ""
    train = np.array([[row["step"], row["loss"]] for row in rows], dtype=np.float64)
    losses = [*train[:, 1], *(row["loss"] for row in valid)]
    axes = _Axes((0.0, float(train[-1, 0])), (min(0.0, *losses), max(losses)))
    dots = (axes.at(float(row["step"]), float(row["loss"])) for row in valid)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in dots)
    return _svg(f'{axes.frame()}{axes.line(train, "loss")}<g class="now">{marks}</g>', "loss over steps")


def _svg(content: str, label: str) -> str:
    import html

    name = html.escape(label, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">{content}</svg>'


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    room = 0.04 * (high - low) if high > low else max(1.0, abs(low))
    return low - room, high + room


def _ticks(span: tuple[float, float]) -> list[float]:
    """Return two to five round numbers inside a span."""
    step = 10.0 ** math.floor(math.log10(span[1] - span[0]))
    while (span[1] - span[0]) / step > 5:
        step *= 2
    while (span[1] - span[0]) / step < 2:
        step /= 2
    first = math.ceil(span[0] / step)
    return [round(k * step, 10) for k in range(first, math.floor(span[1] / step) + 1)]


def function_svg(points: Array, label: str) -> str:
    """Draw a function from its points, (n, 2)."""
    axes = _Axes(_span(points[:, 0]), _span(points[:, 1]))
    return _svg(f"{axes.frame()}{axes.line(points, 'loss')}", label)


def steps_svg(series: Mapping[str, Array], label: str, stairs: bool = True) -> str:
    """Draw several series over one axis.

    Args:
        series: points (n, 2) by name.
        label: for readers who do not see the picture.
        stairs: a value holds until the next point.
    """
    every = np.concatenate(list(series.values()))
    axes = _Axes((0.0, float(every[:, 0].max())), _span(every[:, 1]))
    lines = (axes.line(_stairs(p) if stairs else p, f"series{i % 4}") for i, p in enumerate(series.values()))
    return _svg(axes.frame() + "".join(lines), label)


def scatter_svg(points: Array, front: Array, label: str) -> str:
    """Draw points (n, 2), and a line through those of the front (m, 2)."""
    axes = _Axes(_span(points[:, 0]), _span(points[:, 1]))
    dots = (axes.at(float(x), float(y)) for x, y in points)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.5"/>' for x, y in dots)
    return _svg(f'{axes.frame()}{axes.line(front, "before")}<g class="now">{marks}</g>', label)


def _span(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _stairs(points: Array) -> Array:
    """Repeat every value at the place of the next point."""
    found: Array = np.repeat(points, 2, axis=0)[1:]
    found[1::2, 1] = points[:-1, 1]
    return found
