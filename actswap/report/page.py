"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actswap.activations.describe import sentence
from actswap.io.atomic import replacing
from actswap.plan import Choice
from actswap.report.facts import Facts
from actswap.report.parts import document, escape, number, section, table
from actswap.report.svg import activation_svg, curve_svg


def render(facts: Facts) -> str:
    """Return the report as an HTML document."""
    sections = [
        _cards(facts),
        _accuracy(facts),
        _cost(facts),
        section("Sites", _sites(facts)),
        _proof(facts),
        _units(facts),
        _left(facts),
        _pictures(facts),
        _curve(facts),
        section("Notes", "".join(f"<p>{escape(note)}</p>" for note in facts.notes)) if facts.notes else "",
    ]
    return document(facts.title, f"actswap report, {facts.made}", sections, summary(facts))


def write_report(facts: Facts, path: str | Path) -> Path:
    """Write the report beside its place and move it there.

    Raises:
        FileError: the folder cannot be written.
    """
    with replacing(path) as beside:
        beside.write_text(render(facts), encoding="utf-8")
    return Path(path)


def summary(facts: Facts) -> dict[str, Any]:
    """Return the figures of the report as plain JSON data; the HTML file holds the same data."""
    return {
        "schema": 1,
        "title": facts.title,
        "target": facts.target,
        "replaced": [site.choice.site.name for site in facts.sites],
        "left": [{"site": site.name, "reason": reason} for site, reason in facts.left],
        "parity": dict(facts.parity),
        "proof": dict(facts.proof),
        "cost": {name: cost.to_dict() for name, cost in facts.cost.items()},
        "latency_ms": dict(facts.latency),
        "accuracy": dict(facts.accuracy),
        "made": facts.made,
    }


def _cards(facts: Facts) -> str:
    cards = [(f"{len(facts.sites)}", f"of {len(facts.sites) + len(facts.left)} sites became {facts.target}")]
    if "rel" in facts.parity:
        cards.append((number(facts.parity["rel"]), "output error at conversion, of what the outputs vary by"))
    agreement = facts.parity.get("top1_agreement")
    if agreement is not None:
        cards.append((f"{100 * agreement:.1f} %", "same largest class at conversion"))
    if {"before", "after"} <= facts.latency.keys():
        cards.append((f"{facts.latency['after'] / facts.latency['before']:.2f} x", "processor time of one run"))
    blocks = (f'<div class="card"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in cards)
    return f'<div class="cards">{"".join(blocks)}</div>'


def _proof(facts: Facts) -> str:
    """The checks that were made at conversion, beside the outputs."""
    words = {True: "passed", False: "failed", None: "not proved"}
    rows = [[check["name"], words[check["passed"]], check["said"]] for check in facts.proof.get("checks", ())]
    return section("Proof", table(["check", "result", "what was found"], rows)) if rows else ""


def _accuracy(facts: Facts) -> str:
    if not facts.accuracy:
        return ""
    rows = [[name, f"{value:.2f}"] for name, value in facts.accuracy.items()]
    return section("Accuracy, %", table(["network", "score"], rows))


def _cost(facts: Facts) -> str:
    rows: list[list[str]] = []
    for label, attribute in (
        ("parameters", "parameters"),
        ("FLOPs", "flops"),
        ("activations", "activations"),
    ):
        values = [getattr(facts.cost[name], attribute) for name in ("before", "after") if name in facts.cost]
        rows.append([label, *(f"{value:,}" if value is not None else "not counted" for value in values)])
    if facts.latency:
        rows.append(["ms, one thread", *(f"{facts.latency[n]:.2f}" for n in facts.cost if n in facts.latency)])
    names = [name for name in ("before", "after") if name in facts.cost]
    missing = "".join(f"<p>{escape(cost.note)}</p>" for cost in facts.cost.values() if cost.note)
    note = "<p class=made>One run on the example inputs; a multiply-add is one FLOP (fvcore).</p>"
    return section("Cost", table(["", *names], rows) + note + missing) if rows else ""


def _sites(facts: Facts) -> str:
    rows = [_row(site.choice) for site in facts.sites]
    return table(["site", "was", "is", "start", "bound", "error", "rms", "input", "note"], rows, numbers=(4, 5, 6))


def _row(choice: Choice) -> list[str]:
    start, site = choice.start, choice.site
    shape = "x".join(map(str, site.shape))
    numbers = [number(value) for value in (start.bound, start.error, start.rms)]
    return [site.name, str(site.source), choice.target, start.kind, *numbers, shape, start.note]


def _units(facts: Facts) -> str:
    """Slopes that the ACON units can have, coefficients and poles of the Padé units, as they are now."""
    rows = [[site.choice.site.name, text] for site in facts.sites if (text := sentence(site.unit))]
    return section("Trained units", table(["site", "is"], rows)) if rows else ""


def _left(facts: Facts) -> str:
    if not facts.left:
        return ""
    rows = [[site.name, str(site.source), reason] for site, reason in facts.left]
    return section("Left as they were", table(["site", "is", "reason"], rows))


def _pictures(facts: Facts) -> str:
    figures = [
        f"<figure>{activation_svg(site.picture, site.choice.site.name)}"
        f"<figcaption>{escape(site.choice.site.name)}: {escape(str(site.choice.site.source))} to "
        f"{escape(site.choice.target)}</figcaption></figure>"
        for site in facts.sites
        if site.picture is not None
    ]
    if not figures:
        return ""
    legend = (
        "<p class=made>Bars: inputs (heights are square roots, so that tails show). "
        "Dashed: what stood there. Points: inputs and outputs that occurred.</p>"
    )
    return section("Activations on the example inputs", legend + f'<div class="grid">{"".join(figures)}</div>')


def _curve(facts: Facts) -> str:
    drawn = curve_svg(facts.metrics)
    if not drawn:
        return ""
    caption = "<figcaption>Line: training loss. Points: validation loss.</figcaption>"
    return section("Fine-tuning", f'<div class="grid"><figure>{drawn}{caption}</figure></div>')
