"""A search for assignments as one HTML file: the Pareto front as a picture and a table, and every assignment."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actswap.io.atomic import replacing
from actswap.report.parts import document, escape, section, table
from actswap.report.svg import scatter_svg
from actswap.search.assignment import Assigned, front_of


def render_assignments(tried: Sequence[Assigned], unit: str, data: Mapping[str, Any]) -> str:
    """Return the page as an HTML document.

    Args:
        tried: the assignments.
        unit: of the cost.
        data: plain JSON data that the page holds.
    """
    front, usable = front_of(tried), [one for one in tried if not one.error]
    figure = ""
    if usable:
        points = np.array([[one.cost, one.loss] for one in usable], dtype=np.float64)
        line = np.array([[one.cost, one.loss] for one in front], dtype=np.float64)
        caption = f"Validation loss over {unit}; line: none is both better and cheaper."
        drawn = scatter_svg(points, line, f"validation loss over {unit}")
        figure = f'<div class="grid"><figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure></div>'
    sections = [
        section("Front", figure + _rows(front, unit)),
        section("Every assignment", _rows(sorted(tried, key=lambda one: one.loss), unit)),
    ]
    made = f"actswap search assign, {datetime.date.today().isoformat()}"
    return document("Which activation at which site", made, sections, data)


def write_assignments(tried: Sequence[Assigned], unit: str, data: Mapping[str, Any], path: Path) -> Path:
    """Write the page beside its place and move it there."""
    with replacing(path) as beside:
        beside.write_text(render_assignments(tried, unit, data), encoding="utf-8")
    return path


def _rows(assigned: Sequence[Assigned], unit: str) -> str:
    rows = [[f"{one.loss:.4f}", f"{one.score:.4f}", f"{one.cost:.4g}", one.error or said(one)] for one in assigned]
    return table(["loss", "accuracy", unit, "activations"], rows, numbers=(0, 1, 2))


def said(one: Assigned) -> str:
    """Return an assignment in one line.

    >>> said(Assigned({"act": "acon_c"}, 0.5, 0.9, 1.0, 0)), said(Assigned({}, 0.5, 0.9, 1.0, 0))
    ('act=acon_c', 'all kept')
    """
    return ", ".join(f"{site}={target}" for site, target in one.targets.items()) or "all kept"
