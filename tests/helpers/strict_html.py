"""HTML and SVG that must be well-formed and load nothing."""

from __future__ import annotations

import json
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "hr", "input"}


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
