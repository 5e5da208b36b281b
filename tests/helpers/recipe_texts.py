"""A recipe that holds, and how a test writes one."""

from __future__ import annotations

import textwrap
from pathlib import Path

from recipe_toy import RECIPE as GOOD

__all__ = ["GOOD", "write"]


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path
