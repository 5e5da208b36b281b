"""The texts at the top of the project: their links lead somewhere, and their lists are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actswap.cli.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md"]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(text: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = text if not name else (text.parent / name).resolve()
        assert file.exists(), f"{text.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, headings), f"{text.name} links to {target}"


def test_every_script_is_in_the_index_of_benchmarks() -> None:
    index = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    files = ROOT.glob("benchmarks/*.py")
    scripts = [p.name for p in files if "__main__" in p.read_text(encoding="utf-8")]
    assert scripts
    assert [name for name in scripts if f"`{name}`" not in index] == []


def test_every_verb_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"actswap {verb}" not in readme] == []
