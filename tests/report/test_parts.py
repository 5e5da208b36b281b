"""Parts of pages: texts cannot become markup, figures can be read back, and nothing is loaded."""

from __future__ import annotations

import pytest
from strict_html import Checked

from actswap.report.parts import document, number, section, table

ODD = '</script><script>alert(1)</script> & "quotes" <b>'


def test_a_document_holds_its_texts_and_its_figures_whatever_they_are() -> None:
    page = document(ODD, "made by a test", [section(ODD, table([ODD], [[ODD]])), ""], {"figure": [1.5, ODD]})
    checked = Checked(page)
    assert checked.data == {"figure": [1.5, ODD]} and checked.counts["script"] == 1
    assert "".join(checked.words).count(ODD) == 5, "title, heading, section, head and cell"


def test_tables_set_numbers_to_the_right() -> None:
    checked = Checked(html := table(["name", "value"], [["a", "1"], ["b", "2"]], numbers=[1]))
    assert checked.counts["tr"] == 3 and html.count("<td class=n>") == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (0.5, "0.5"), (0.00123, "1.23e-03"), (-0.001, "-1.00e-03"), (123456.0, "1.235e+05")],
)
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text
