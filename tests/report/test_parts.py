"""The parts of a page: texts cannot become markup, and the figures cannot end the script that holds them."""

from __future__ import annotations

from strict_html import Checked

from actswap.report.parts import document, escape, number, section, table


def test_hostile_texts_stay_texts() -> None:
    bad = "</script><script>alert(1)</script>\"'&"
    content = section(bad, table([bad], [[bad]], numbers=(0,)))
    page = Checked(document(bad, bad, [content, ""], {"text": bad}))
    assert page.data == {"text": bad} and page.counts["script"] == 1
    assert " ".join(page.words).count("alert(1)") >= 4


def test_numbers_and_escapes() -> None:
    assert [number(v) for v in (None, 0.0, 0.00123, 12.34567)] == ["", "0", "1.23e-03", "12.35"]
    assert escape("<a href='b'>") == "&lt;a href=&#x27;b&#x27;&gt;"
