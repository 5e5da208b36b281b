"""Read the JSON of a file from strangers: memory bounded by the file's size, no constants that are no JSON.

Parsed JSON takes far more memory than its text: `[],` is three bytes, and a list takes 64. So before the text is
parsed, the memory of what it holds is estimated from its brackets and commas.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actswap.errors import LoadError, first_line

_BYTES = {b"{": 232, b"[": 88, b",": 64, b":": 64}  # what Python takes for one dict, list, element, entry
_SLACK = 128 << 20


def read_json(data: bytes, path: Path, *, fix: str, size: int | None = None) -> Any:
    """Parse JSON.

    Args:
        data: the text, in UTF-8.
        path: the file it comes from, for messages.
        fix: what the user can do if it is refused.
        size: bytes of the whole file, if the text is only a part of it.

    Returns:
        The parsed data.

    Raises:
        LoadError: it is no JSON, or would take more than four times the file's size and 128 MiB.

    >>> read_json(b'{"schema": 1}', Path("plan.json"), fix="write it again")
    {'schema': 1}
    """
    estimate = sum(data.count(sign) * cost for sign, cost in _BYTES.items())
    if estimate > 4 * max(size or 0, len(data)) + _SLACK:
        raise LoadError(f"{path} is refused: its JSON takes far more memory than the file", fix=fix)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise LoadError(f"{path} is damaged", why=first_line(problem)[:200], fix=fix) from None


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
