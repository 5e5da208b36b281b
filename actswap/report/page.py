"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from actswap.activations.describe import sentence
from actswap.io.atomic import replacing
from actswap.plan import Choice
from actswap.report.facts import Facts
from actswap.report.svg import activation_svg, curve_svg

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser itself keeps the file self-contained
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#667;--line:#d8dce2;--bar:#d5e3f5;--now:#c2410c;
--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa3ad;--line:#3a4048;--bar:#24384f;
--now:#fb923c;--paper:#15181c}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1080px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
p.made,figcaption,td small{color:var(--soft)}
.cards{display:flex;flex-wrap:wrap;gap:.75rem;margin:1rem 0}
.card{border:1px solid var(--line);border-radius:8px;padding:.5rem .9rem}
.card b{display:block;font-size:1.25rem}.card span{color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
td:last-child{white-space:normal}td.n{text-align:right;font-variant-numeric:tabular-nums}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:1rem}figure{margin:0}
svg{width:100%;height:auto}svg text{font-size:9px;fill:var(--soft)}.bars rect{fill:var(--bar)}
.frame{fill:none;stroke:var(--line)}.zero{stroke:var(--line);stroke-width:.7}.before{fill:none;stroke:var(--ink);
stroke-dasharray:5 3;stroke-width:1.2}.now circle{fill:var(--now)}.loss{fill:none;stroke:var(--now)}
"""


def render(facts: Facts) -> str:
    """Return the report as an HTML document."""
    sections = [
        _cards(facts),
        _accuracy(facts),
        _cost(facts),
        _section("Sites", _sites(facts)),
        _proof(facts),
        _units(facts),
        _left(facts),
        _pictures(facts),
        _curve(facts),
        _section("Notes", "".join(f"<p>{_e(note)}</p>" for note in facts.notes)) if facts.notes else "",
    ]
    data = json.dumps(summary(facts)).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_e(facts.title)}</title><style>{_STYLE}</style></head>\n<body><h1>{_e(facts.title)}</h1>"
        f'<p class="made">actswap report, {_e(facts.made)}</p>\n'
        + "\n".join(section for section in sections if section)
        + f'\n<script type="application/json" id="actswap">{data}</script></body></html>\n'
    )


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
        cards.append((_number(facts.parity["rel"]), "output error at conversion, of what the outputs vary by"))
    agreement = facts.parity.get("top1_agreement")
    if agreement is not None:
        cards.append((f"{100 * agreement:.1f} %", "same largest class at conversion"))
    if {"before", "after"} <= facts.latency.keys():
        cards.append((f"{facts.latency['after'] / facts.latency['before']:.2f} x", "processor time of one run"))
    blocks = (f'<div class="card"><b>{_e(big)}</b><span>{_e(small)}</span></div>' for big, small in cards)
    return f'<div class="cards">{"".join(blocks)}</div>'


def _proof(facts: Facts) -> str:
    """The checks that were made at conversion, beside the outputs."""
    words = {True: "passed", False: "failed", None: "not proved"}
    rows = [[check["name"], words[check["passed"]], check["said"]] for check in facts.proof.get("checks", ())]
    return _section("Proof", _table(["check", "result", "what was found"], rows)) if rows else ""


def _accuracy(facts: Facts) -> str:
    if not facts.accuracy:
        return ""
    rows = [[name, f"{value:.2f}"] for name, value in facts.accuracy.items()]
    return _section("Accuracy, %", _table(["network", "score"], rows))


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
    missing = "".join(f"<p>{_e(cost.note)}</p>" for cost in facts.cost.values() if cost.note)
    note = "<p class=made>One run on the example inputs; a multiply-add is one FLOP (fvcore).</p>"
    return _section("Cost", _table(["", *names], rows) + note + missing) if rows else ""


def _sites(facts: Facts) -> str:
    rows = [_row(site.choice) for site in facts.sites]
    return _table(["site", "was", "is", "start", "bound", "error", "rms", "input", "note"], rows, numbers=(4, 5, 6))


def _row(choice: Choice) -> list[str]:
    start, site = choice.start, choice.site
    shape = "x".join(map(str, site.shape))
    numbers = [_number(value) for value in (start.bound, start.error, start.rms)]
    return [site.name, str(site.source), choice.target, start.kind, *numbers, shape, start.note]


def _units(facts: Facts) -> str:
    """Slopes that the ACON units can have, coefficients and poles of the Padé units, as they are now."""
    rows = [[site.choice.site.name, text] for site in facts.sites if (text := sentence(site.unit))]
    return _section("Trained units", _table(["site", "is"], rows)) if rows else ""


def _left(facts: Facts) -> str:
    if not facts.left:
        return ""
    rows = [[site.name, str(site.source), reason] for site, reason in facts.left]
    return _section("Left as they were", _table(["site", "is", "reason"], rows))


def _pictures(facts: Facts) -> str:
    figures = [
        f"<figure>{activation_svg(site.picture, site.choice.site.name)}"
        f"<figcaption>{_e(site.choice.site.name)}: {_e(str(site.choice.site.source))} to "
        f"{_e(site.choice.target)}</figcaption></figure>"
        for site in facts.sites
        if site.picture is not None
    ]
    if not figures:
        return ""
    legend = (
        "<p class=made>Bars: inputs (heights are square roots, so that tails show). "
        "Dashed: what stood there. Points: inputs and outputs that occurred.</p>"
    )
    return _section("Activations on the example inputs", legend + f'<div class="grid">{"".join(figures)}</div>')


def _curve(facts: Facts) -> str:
    drawn = curve_svg(facts.metrics)
    if not drawn:
        return ""
    caption = "<figcaption>Line: training loss. Points: validation loss.</figcaption>"
    return _section("Fine-tuning", f'<div class="grid"><figure>{drawn}{caption}</figure></div>')


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_e(title)}</h2>{content}</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    top = "".join(f"<th>{_e(head)}</th>" for head in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if i in numbers else ''}>{_e(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}" if value and abs(value) < 0.01 else f"{value:.4g}"


def _e(text: str) -> str:
    return html.escape(text, quote=True)
