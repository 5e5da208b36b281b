"""Searches as one HTML file: the best functions, the best score over the trials, score against cost."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.study import Study

from actswap.activations.expression import evaluate_expression, flops_of, parameters_of
from actswap.activations.grammar import parse
from actswap.fit.points import Array
from actswap.io.atomic import replacing
from actswap.report.parts import document, escape, section, table
from actswap.report.svg import function_svg, scatter_svg, steps_svg
from actswap.search.front import pareto_front
from actswap.search.results import Found, best_so_far, ranking, tried

_WINDOW = 25  # trials in the moving mean of the rewards
_DRAWN = 12  # functions


@dataclass(frozen=True)
class Searched:
    """What one search has found.

    Attributes:
        name: of the search.
        document: what it was created with.
        trials: every finished trial, in order.
        ranking: every function once, the best first.
        flops: operations for one element, by function.
    """

    name: str
    document: Mapping[str, Any]
    trials: Sequence[Found]
    ranking: Sequence[Found]
    flops: Mapping[str, int] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The search in one line."""
        how = self.document.get("search", {})
        failed = sum(one.state == "failed" for one in self.ranking)
        counts = f"{len(self.trials)} trials, {len(self.ranking)} functions, {failed} failed"
        return f"{how.get('sampler', '')}, seed {how.get('seed', 0)}, {counts}"

    def front(self) -> list[Found]:
        """Return the functions of which none is both better and cheaper, the cheapest first."""
        points = [(1 - one.score, self.flops[one.expression]) for one in self.ranking]
        return sorted((self.ranking[i] for i in pareto_front(points)), key=lambda one: self.flops[one.expression])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "name": self.name,
            "search": dict(self.document),
            "trials": len(self.trials),
            "ranking": [{**one.to_dict(), "flops": self.flops[one.expression]} for one in self.ranking],
            "best_so_far": [list(step) for step in best_so_far(self.trials)],
            "front": [one.expression for one in self.front()],
        }


def gather_search(name: str, made_with: Mapping[str, Any], study: Study) -> Searched:
    """Return what a search has found.

    Args:
        name: of the search.
        made_with: what it was created with, from `document_of`.
        study: the search.
    """
    ranked = ranking(study)
    return Searched(
        name, made_with, tried(study), ranked, {f.expression: flops_of(parse(f.expression)) for f in ranked}
    )


def render_search(searches: Sequence[Searched], top: int) -> str:
    """Return the page as an HTML document.

    Args:
        searches: one or several to be compared.
        top: how many functions the lists show.
    """
    title = "Search for activation functions"
    sections = [_curves(searches), *(_best(one, top) for one in searches)]
    made = f"actswap search report, {datetime.date.today().isoformat()}"
    return document(title, made, sections, {"schema": 1, "searches": [one.to_dict() for one in searches]})


def write_search_page(searches: Sequence[Searched], path: str | Path, top: int) -> Path:
    """Write the page beside its place and move it there.

    Raises:
        FileError: the folder cannot be written.
    """
    with replacing(path) as beside:
        beside.write_text(render_search(searches, top), encoding="utf-8")
    return Path(path)


def _curves(searches: Sequence[Searched]) -> str:
    best = {one.name: np.array(best_so_far(one.trials), dtype=np.float64) for one in searches if one.trials}
    if not best:
        return section("Trials", "<p>No trial has finished.</p>")
    means = {one.name: _moving_mean([t.score for t in one.trials]) for one in searches if len(one.trials) >= _WINDOW}
    figures = [_figure(steps_svg(best, "best score over trials"), "Best score so far over the trials.")]
    if means:
        text = f"Reward: mean of the last {_WINDOW} trials."
        figures.append(_figure(steps_svg(means, "mean reward over trials", stairs=False), text))
    names = " ".join(f'<span class="series{i % 4}">{escape(name)}</span>' for i, name in enumerate(best))
    return section(
        "Scores over the trials", f"<p class=made>{names}</p>" + f'<div class="grid">{"".join(figures)}</div>'
    )


def _best(one: Searched, top: int) -> str:
    rows = [
        [str(rank), f"{f.score:.4f}", str(one.flops[f.expression]), f.state, str(f.trial), f.expression]
        for rank, f in enumerate(one.ranking[:top], 1)
    ]
    heads = ["rank", "score", "FLOPs", "state", "trial", "function"]
    figures = [_figure(function_svg(_curve(f.expression), f.expression), f.expression) for f in one.ranking[:_DRAWN]]
    if len(one.ranking) > 1:
        points = np.array([[one.flops[f.expression], f.score] for f in one.ranking], dtype=np.float64)
        front = np.array([[one.flops[f.expression], f.score] for f in one.front()], dtype=np.float64)
        caption = "Score over FLOPs for one element; line: none is both better and cheaper."
        figures.insert(0, _figure(scatter_svg(points, front, "score over FLOPs"), caption))
    content = f"<p class=made>{escape(one.said)}</p>" + table(heads, rows, numbers=(0, 1, 2, 4))
    return section(one.name, content + f'<div class="grid">{"".join(figures)}</div>')


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _curve(text: str) -> Array:
    """Return a function on [-5, 5] as points, every trained number at its first value, 1."""
    tree = parse(text)
    x = torch.linspace(-5, 5, 201, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    y = evaluate_expression(tree, {"x": x, **dict.fromkeys(parameters_of(tree), one)})
    points: Array = torch.stack([x, y.nan_to_num(0, 0, 0).clamp(-10, 10)], 1).numpy()
    return points


def _moving_mean(scores: Sequence[float]) -> Array:
    sums = np.cumsum([0.0, *scores])
    ends = np.arange(_WINDOW, len(scores) + 1)
    found: Array = np.stack([ends, (sums[ends] - sums[ends - _WINDOW]) / _WINDOW], 1)
    return found


def lines_of(searches: Sequence[Searched]) -> str:
    """Return every trial as one line of JSON."""
    rows = ({"search": one.name, **trial.to_dict()} for one in searches for trial in one.trials)
    return "".join(json.dumps(row) + "\n" for row in rows)
