"""A converted network as one self-contained HTML file."""

from actswap.report.facts import Facts, gather
from actswap.report.page import render, summary, write_report

__all__ = ["Facts", "gather", "render", "summary", "write_report"]
