"""What every page of actswap is made of: one HTML document that needs nothing else, sections and tables."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser itself keeps the file self-contained
STYLE = """
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
polyline[class^=series]{fill:none;stroke-width:1.3}.series0{stroke:#c2410c;color:#c2410c}
.series1{stroke:#2563eb;color:#2563eb}.series2{stroke:#15803d;color:#15803d}.series3{stroke:#9333ea;color:#9333ea}
"""


def document(title: str, made: str, sections: Iterable[str], data: Any) -> str:
    """Return a page as an HTML document that holds its figures as JSON too.

    Args:
        title: its heading.
        made: what made it and when.
        sections: HTML; empty ones are left out.
        data: plain JSON data.
    """
    figures = json.dumps(data).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>"
        f'<p class="made">{escape(made)}</p>\n'
        + "\n".join(section for section in sections if section)
        + f'\n<script type="application/json" id="actswap">{figures}</script></body></html>\n'
    )


def section(title: str, content: str) -> str:
    """Return HTML under a heading."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table of texts; the columns `numbers` are set to the right."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if i in numbers else ''}>{escape(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | None) -> str:
    """Return a number in four digits, and nothing for None."""
    return "" if value is None else f"{value:.2e}" if value and abs(value) < 0.01 else f"{value:.4g}"


def escape(text: str) -> str:
    """Return a text as HTML shows it."""
    return html.escape(text, quote=True)
